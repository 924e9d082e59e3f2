"""The decoder assembled from its parts, its parameter budget, and how it is scored and saved."""

"""Vector search: exact for small spaces, an inverted file of short codes for large ones."""

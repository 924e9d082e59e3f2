"""Pure tensor functions. The plain reference of each fast one stands beside it, ending in `_plain`."""

"""Training an embedding by itself: objectives, data, the loop, and the space that comes out."""

"""A decoder's pass over a few positions as one compiled function, for models where PyTorch mostly waits for itself."""

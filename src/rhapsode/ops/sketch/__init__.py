"""Linear sketches of long vectors: CountSketch, Walsh-Hadamard, SRHT, n-gram indicators, whitening.

All are deterministic functions of a seed, the same on every device. Each has a plain twin or a dense matrix to
compare with.
"""

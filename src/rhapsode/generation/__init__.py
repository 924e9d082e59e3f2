"""Streaming generation: sampling, stop strings, and the engine on the key-value cache."""

"""A vocabulary of byte n-grams that may cross words, and encoding with the fewest tokens."""

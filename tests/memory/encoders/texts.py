"""Random texts for encoders to count."""

import numpy as np


def random_texts(seed: int, num_texts: int = 5, num_words: int = 120) -> list[str]:
    """Draw words w0, w1, ... with Zipf's frequencies."""
    rng = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(30)]
    share = 1 / np.arange(1, 31)
    return [" ".join(rng.choice(vocabulary, num_words, p=share / share.sum())) for _ in range(num_texts)]

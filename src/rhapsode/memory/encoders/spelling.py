"""A vector for any word from its spelling alone, so that names nobody has counted can be told apart and found again.

A word is the sum of its character n-grams (Bojanowski et al. 2017, arXiv:1607.04606), but an n-gram's vector is not
learnt: it is +1 or -1 in each place, by the bits of its hash. Vectors of different n-grams are nearly orthogonal
(their cosine has standard deviation M^-1/2), so nothing has to be stored, nothing collides, and words that
share most of their letters are near each other.

Shape letters: M width, G n-grams of a word.
"""

from hashlib import blake2b

import numpy as np
from jaxtyping import Float32

SHORTEST, LONGEST = 3, 5
WHOLE_WORD_WEIGHT = 2.0
"""How much more the whole word counts than one of its n-grams: sharing a stem must not be the same as being equal."""


def character_ngrams(word: str) -> list[str]:
    """Return the n-grams of a word between its boundary marks, each as often as it occurs, the whole word first.

    >>> character_ngrams("cat")
    ['<cat>', '<ca', 'cat', 'at>', '<cat', 'cat>']
    """
    marked = f"<{word}>"
    lengths = range(SHORTEST, min(LONGEST, len(marked) - 1) + 1)
    return [marked, *(marked[i : i + n] for n in lengths for i in range(len(marked) - n + 1))]


def spelling_vector(word: str, width: int) -> Float32[np.ndarray, " M"]:
    """Return the unit vector of a word's spelling. Cost O(G M).

    Args:
        word: as `split_words` gives it.
        width: M, a multiple of 8 up to 512.
    """
    grams = character_ngrams(word)
    digests = b"".join(blake2b(gram.encode(), digest_size=width // 8).digest() for gram in grams)
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(len(grams), width)
    signs = bits.astype(np.float32) * 2 - 1
    vector = WHOLE_WORD_WEIGHT * signs[0] + signs[1:].sum(axis=0)
    unit: Float32[np.ndarray, " M"] = (vector / np.sqrt((vector * vector).sum())).astype(np.float32)
    return unit

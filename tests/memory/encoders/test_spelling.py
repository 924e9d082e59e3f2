"""Vectors from spelling alone."""

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.memory.encoders.spelling import WHOLE_WORD_WEIGHT, character_ngrams, spelling_vector


def plain_vector(word: str, width: int) -> np.ndarray:
    """The same, one bit at a time."""
    marked = f"<{word}>"
    weights = Counter({marked: WHOLE_WORD_WEIGHT})
    for n in (3, 4, 5):
        for i in range(len(marked) - n + 1):
            if n < len(marked):
                weights[marked[i : i + n]] += 1
    vector = np.zeros(width)
    for gram, weight in weights.items():
        digest = blake2b(gram.encode(), digest_size=width // 8).digest()
        for place in range(width):
            bit = digest[place // 8] >> (7 - place % 8) & 1
            vector[place] += weight if bit else -weight
    return vector / np.linalg.norm(vector)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), st.sampled_from([8, 64, 256, 512]))
def test_it_equals_the_plain_twin(word: str, width: int) -> None:
    # float32 sums of small integers are exact; only the division rounds.
    np.testing.assert_allclose(spelling_vector(word, width), plain_vector(word, width), rtol=1e-6, atol=1e-7)


def test_words_that_look_alike_are_near_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(6, 12))) for _ in range(300)]
    vectors = np.stack([spelling_vector(word, 256) for word in words])
    typos = np.stack([spelling_vector(word[:-1], 256) for word in words])
    near = (vectors * typos).sum(axis=1)
    far = (vectors @ vectors.T)[np.triu_indices(len(words), 1)]
    assert near.min() > 0.3
    # independent sums of signs: mean 0, deviation 256^-1/2 = 0.0625; a shared n-gram here and there adds a little.
    assert abs(far.mean()) < 0.005
    assert 0.055 < far.std() < 0.075


@pytest.mark.parametrize("word", ["a", "ab", "abc", "é", "東京"])
def test_short_words_have_a_vector(word: str) -> None:
    assert character_ngrams(word)[0] == f"<{word}>"
    assert np.linalg.norm(spelling_vector(word, 256)) == pytest.approx(1)

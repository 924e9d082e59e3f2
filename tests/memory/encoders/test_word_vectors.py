"""Counting and decomposing, against plain twins."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.texts import random_texts
from rhapsode.memory.encoders import StaticEncoderConfig
from rhapsode.memory.encoders.word_vectors import count_words, train_word_vectors

SMALL = StaticEncoderConfig(width=16, min_count=1, window=3)


def plain_ppmi(texts: list[str], words: list[str], num_contexts: int, config: StaticEncoderConfig) -> np.ndarray:
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        split = text.split()
        for i, word in enumerate(split):
            for j in range(max(0, i - config.window), min(len(split), i + config.window + 1)):
                if i != j and split[j] in words[:num_contexts]:
                    pairs[word, split[j]] += 1
    of_word, of_context = Counter(), Counter()
    for (word, context), count in pairs.items():
        of_word[word] += count
        of_context[context] += count
    scale = sum(count**config.smoothing for count in of_context.values())
    matrix = np.zeros((len(words), num_contexts))
    for (word, context), count in pairs.items():
        share = of_context[context] ** config.smoothing / scale
        value = math.log(count / (of_word[word] * share))
        matrix[words.index(word), words.index(context)] = max(0.0, value)
    return matrix


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_contexts", [7, 30])
def test_vectors_span_what_an_exact_decomposition_gives(seed: int, num_contexts: int) -> None:
    config = SMALL.model_copy(update={"num_contexts": num_contexts})
    texts = random_texts(seed)
    counted = count_words(texts, config)
    vectors = train_word_vectors(counted, config)
    matrix = plain_ppmi(texts, counted.words, num_contexts, config)
    left, strengths, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = min(config.width, num_contexts)
    exact = left[:, :rank] * np.sqrt(strengths[:rank])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # signs of directions are free, cosines are not; float32 and two power iterations of a small matrix.
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=2e-3)
    assert vectors.shape == (len(counted.words), config.width)


def test_words_used_alike_get_vectors_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    animals, stones = ["cat", "dog"], ["granite", "basalt"]
    texts = []
    for _ in range(400):
        texts.append(f"the {rng.choice(animals)} eats {rng.choice(['meat', 'fish', 'bread'])} and sleeps")
        texts.append(f"the {rng.choice(stones)} lies {rng.choice(['deep', 'below', 'under'])} the mountain")
    counted = count_words(texts, SMALL)
    vectors = dict(zip(counted.words, train_word_vectors(counted, SMALL), strict=True))
    assert vectors["cat"] @ vectors["dog"] > vectors["cat"] @ vectors["granite"] + 0.5


@given(st.lists(st.text(alphabet="ab c.", max_size=30), max_size=6))
def test_any_text_can_be_counted(texts: list[str]) -> None:
    counted = count_words(texts, SMALL)
    plain = Counter(word for text in texts for word in text.replace(".", " ").split())
    assert dict(zip(counted.words, counted.counts.tolist(), strict=True)) == plain
    assert counted.total == plain.total()
    vectors = train_word_vectors(counted, SMALL)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.isfinite(vectors).all()
    assert ((np.abs(lengths - 1) < 1e-4) | (lengths == 0)).all()


def test_limits_hold() -> None:
    config = SMALL.model_copy(update={"max_words": 5, "min_count": 2, "max_chars": 50})
    counted = count_words(["b b a a c c c " * 2, "z " * 100], config)
    assert counted.words[:2] == ["c", "a"] or counted.words[0] == "z"
    assert counted.total == (28 + 22) // 2

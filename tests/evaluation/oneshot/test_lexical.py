"""The growing index scores as the formulas do when they are written out."""

from collections import Counter

import numpy as np
import pytest

from rhapsode.evaluation.oneshot.lexical import LexicalIndex, char_ngrams, words_of

RANDOM = np.random.default_rng(0)
DOCUMENTS = [[f"w{i}" for i in RANDOM.integers(12, size=RANDOM.integers(1, 9))] for _ in range(30)]
QUERY = ["w1", "w1", "w5", "w7", "unknown"]


def idf(term: str, documents: list[list[str]]) -> float:
    found = sum(term in document for document in documents)
    return float(np.log(1 + (len(documents) - found + 0.5) / (found + 0.5)))


def bm25_plain(query: list[str], document: list[str], documents: list[list[str]]) -> float:
    mean, total = np.mean([len(d) for d in documents]), 0.0
    for term in query:
        count = document.count(term)
        total += idf(term, documents) * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(document) / mean))
    return total


def cosine_plain(query: list[str], document: list[str], documents: list[list[str]]) -> float:
    one, other = ({t: n * idf(t, documents) for t, n in Counter(terms).items()} for terms in (query, document))
    dot = sum(weight * other.get(term, 0) for term, weight in one.items())
    return float(dot / np.sqrt(sum(w**2 for w in one.values()) * sum(w**2 for w in other.values())))


def test_scores_are_those_of_the_formulas_at_any_size() -> None:
    index = LexicalIndex()
    for number, document in enumerate(DOCUMENTS):
        assert index.add(document) == number
        if number in (0, 1, 17, 29):
            so_far = DOCUMENTS[: number + 1]
            assert index.scores(QUERY) == pytest.approx([bm25_plain(QUERY, d, so_far) for d in so_far])
            assert index.cosines(QUERY) == pytest.approx([cosine_plain(QUERY, d, so_far) for d in so_far])


def test_a_rare_word_that_is_missing_costs_coverage() -> None:
    index = LexicalIndex()
    for document in ("the red house", "the blue house", "the zorb"):
        index.add(document.split())
    assert index.coverage(["the", "zorb"], 2) == pytest.approx(1)
    assert index.coverage(["the", "blick"], 2) < 0.1
    assert index.coverage([], 0) == 0


def test_an_empty_index_has_no_scores() -> None:
    assert LexicalIndex().scores(["a"]).shape == (0,)


def test_inflections_share_most_character_ngrams() -> None:
    one, other = set(char_ngrams(["zorbing"])), set(char_ngrams(["zorbs"]))
    assert "<zor" in one & other
    assert words_of("Ä b_c\u4e1c1!") == ["ä", "b", "c\u4e1c1"]

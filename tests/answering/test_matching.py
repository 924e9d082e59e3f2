"""Words of a question among the words of a memory."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.answering.matching import SLIP, WordSet, is_slip, spelling_similarity
from rhapsode.answering.synthetic import misspell
from rhapsode.answering.word_lists import make_name

MEMORY = WordSet.of("the zorblatt protocol was designed in lisbon in 1987 by ana reis room 412 c++".split())


@pytest.mark.parametrize(
    ("word", "exact", "fuzzy"),
    [
        ("zorblatt", 1.0, 1.0),
        ("designs", 0.95, 0.95),
        ("invented", 0.8, 0.8),
        ("zorblat", 0.0, SLIP),
        ("zorbaltt", 0.0, SLIP),
        ("zorblett", 0.0, 0.0),
        ("quibblex", 0.0, 0.0),
        ("413", 0.0, 0.0),
        ("4122", 0.0, 0.0),
        ("c", 0.0, 0.0),
        ("an", 0.0, 0.0),
    ],
)
def test_how_well_a_word_is_found(word: str, exact: float, fuzzy: float) -> None:
    match = MEMORY.match(word)
    assert (match.exact, match.fuzzy) == (exact, pytest.approx(fuzzy))


def plain_is_slip(first: str, second: str) -> bool:
    """The same by trying every slip."""
    slips = set()
    for word, other in ((first, second), (second, first)):
        for i in range(1, len(word)):
            slips.add((word[:i] + word[i + 1 :], other))
            slips.add((word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :], other))
    return first != second and any(changed == other for changed, other in slips)


@given(st.text("abc", min_size=1, max_size=6), st.text("abc", min_size=1, max_size=6))
def test_slips_equal_the_plain_twin(first: str, second: str) -> None:
    assert is_slip(first, second) == is_slip(second, first) == plain_is_slip(first, second)


@given(st.text("abcdef", min_size=1, max_size=9), st.text("abcdef", min_size=1, max_size=9))
def test_similarity_is_symmetric_and_one_only_for_equal_trigrams(first: str, second: str) -> None:
    similarity = spelling_similarity(first, second)
    assert similarity == spelling_similarity(second, first)
    assert 0 <= similarity <= 1
    assert spelling_similarity(first, first) == 1


def test_misspelt_names_are_found() -> None:
    rng = random.Random(0)
    for _ in range(200):
        name = make_name(rng)
        typo = misspell(rng, name)
        if len(name) >= 5 <= len(typo) and typo != name:
            assert WordSet.of([name]).match(typo).fuzzy >= SLIP

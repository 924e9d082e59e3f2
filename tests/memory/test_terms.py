"""Terms: what is folded together, and which scripts are cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.memory.terms import MAX_TERM_LENGTH, count_terms, find_terms, fold


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("C++ a-b it's snake_case", "c a b it s snake case".split()),
        ("Ça déjà vu, Ångström", "ca deja vu angstrom".split()),
        ("Ёлка й", ["ёлка", "й"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京 x", ["東京", "x"]),
        ("ab東京c", ["ab", "東京", "c"]),
        ("ガ", ["ガ"]),
        ("สวัส", ["สว", "วั", "ัส", "สวั", "วัส"]),
        ("서울에", ["서울", "울에", "서울에"]),
        ("½ ﬁ ２", ["1", "2", "fi", "2"]),
        ("!? 🙂 _", []),
    ],
)
def test_examples(text: str, terms: list[str]) -> None:
    assert find_terms(text) == terms


@given(st.text(max_size=80))
def test_folding_twice_changes_nothing_and_case_does_not_matter(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert find_terms(fold(text)) == find_terms(text)
    assert all(0 < len(term) <= MAX_TERM_LENGTH for term in find_terms(text))


def test_the_ascii_path_agrees_with_the_general_one() -> None:
    text = "The QUICK brown_fox; jumps 0ver the-lazy dog's back: x" + "y" * 100
    # one letter that is not ASCII sends the whole text down the other path.
    assert find_terms(text + " é") == [*find_terms(text), "e"]


def test_long_words_are_cut() -> None:
    assert find_terms("x" * 100_000) == ["x" * MAX_TERM_LENGTH]
    assert count_terms("a b a") == {"a": 2, "b": 1}

"""Stems and relations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.answering.vocabulary import COMMON_STEMS, FUNCTION_WORDS, RELATIONS, stem


@pytest.mark.parametrize(
    "forms",
    [
        ["design", "designs", "designed", "designing"],
        ["create", "creates", "created", "creating"],
        ["city", "cities"],
        ["stop", "stopped", "stopping"],
        ["box", "boxes"],
        ["pay", "pays", "paid", "paying"],
        ["write", "writes", "wrote", "written", "writing"],
        ["woman", "women"],
    ],
)
def test_forms_of_a_word_share_a_stem(forms: list[str]) -> None:
    assert len({stem(form) for form in forms}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("lisbon", "lisbo"), ("moretti", "rossi"), ("paris", "parish"), ("bus", "busy"), ("king", "k")]
)
def test_other_words_do_not(one: str, other: str) -> None:
    assert stem(one) != stem(other)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_stem_is_never_empty_unless_the_word_is(word: str) -> None:
    assert bool(stem(word)) == bool(word)
    if not (word.isascii() and word.isalpha()):
        assert stem(word) == word


def test_inventors_and_designers_are_not_related() -> None:
    assert RELATIONS["design"] & RELATIONS[stem("invented")]
    assert RELATIONS["design"] & RELATIONS[stem("designer")]
    assert not RELATIONS[stem("designer")] & RELATIONS[stem("inventor")]
    assert not RELATIONS["birthplac"] & RELATIONS[stem("birthday")]


def test_function_words_are_not_common_content() -> None:
    assert not COMMON_STEMS & FUNCTION_WORDS
    assert "work" not in COMMON_STEMS

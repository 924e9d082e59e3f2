"""Words of a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.memory.encoders.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("... !? --", []),
        ("Room 412, code A-7.", ["room", "412", "code", "a", "7"]),
        ("1,000.50 and 3.14.", ["1,000.50", "and", "3.14"]),
        ("C++ beats c, F# too; a+b", ["c++", "beats", "c", "f#", "too", "a", "b"]),
        ("snake_case os.path", ["snake", "case", "os", "path"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        # the same name, composed and decomposed.
        ("Café Cafe\u0301", ["cafe", "cafe"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("東京都は", ["東京", "京都", "都は"]),
        ("私 ok", ["私", "ok"]),
        ("ｆｕｌｌ", ["full"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_words_that_are_stable(text: str) -> None:
    words = split_words(text)
    assert all(words)
    # a word that is split again gives itself, so that keys can be compared however often they were normalised.
    assert all(split_words(word) == [word] for word in words)

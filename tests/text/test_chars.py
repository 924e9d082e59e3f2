"""One id a character, and bytes for the rare ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.text.chars import CharsTokenizer
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.tokenizer import train_tokenizer


def plain_ids(tokenizer: CharsTokenizer, text: str) -> list[int]:
    ids: list[int] = []
    for char in text:
        if ord(char) < 128:
            ids.append(ord(char) + 3)
        elif char in tokenizer.chars:
            ids.append(259 + tokenizer.chars.index(char))
        else:
            ids += [byte + 3 for byte in char.encode()]
    return ids


@given(st.text(st.sampled_from("ab\n\0\x7f\x80éü߿ࠀ中￿😀\U0010ffff")), st.sets(st.sampled_from("éü中😀")))
def test_ids_are_those_of_the_plain_way(text: str, chars: set[str]) -> None:
    tokenizer = CharsTokenizer("".join(sorted(chars)))
    assert tokenizer.encode(text).tolist() == plain_ids(tokenizer, text)


def test_english_costs_no_learnt_ids(prose: str) -> None:
    ascii_text = prose.encode("ascii", "ignore").decode()
    tokenizer = train_tokenizer(iter([ascii_text]), TokenizerConfig(kind="chars"))
    assert tokenizer.vocab_size == 259
    assert len(tokenizer.encode(ascii_text)) == len(ascii_text)


def test_the_most_frequent_are_kept() -> None:
    texts = ["üüü éé 中中中中", "ü éé a😀"]
    counts = Counter("".join(texts).replace(" ", "").replace("a", ""))
    wanted = "".join(sorted(counts, key=lambda char: (-counts[char], char)))
    for cap in (259, 260, 261, 263, 400):
        tokenizer = train_tokenizer(iter(texts), TokenizerConfig(kind="chars", max_vocab_size=cap))
        assert isinstance(tokenizer, CharsTokenizer)
        assert tokenizer.chars == wanted[: cap - 259]


def test_many_characters_need_wider_ids() -> None:
    tokenizer = CharsTokenizer("".join(map(chr, range(0x10000, 0x10000 + 66_000))))
    assert tokenizer.dtype == np.uint32
    text = "a\U00010000\U00020000é"
    assert tokenizer.encode(text).dtype == np.uint32
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("chars", ["éé", "a", "é\n"])
def test_characters_must_be_new(chars: str) -> None:
    with pytest.raises(ValueError, match="characters beyond ASCII, each once"):
        CharsTokenizer(chars)

"""Long text is cut where no tokenizer can tell."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.text.pieces import PIECE_CHARS, cut_pieces
from rhapsode.text.tokenizer import Tokenizer

# every kind of character the pattern tells apart, and white space that only Unicode calls so.
CHARS = "ab'sltZé中٣5½ \t\r\n\u3000\x85\xa0\x1c\u2028.,!_-😀\u0301"


@given(st.lists(st.text(CHARS, max_size=30), max_size=20), st.integers(1, 10))
def test_cuts_do_not_depend_on_the_blocks(blocks: list[str], piece_chars: int) -> None:
    text = "".join(blocks)
    pieces = list(cut_pieces(blocks, piece_chars))
    assert "".join(pieces) == text
    assert pieces == list(cut_pieces([text], piece_chars)) == list(cut_pieces(text, piece_chars))
    assert all(0 < len(piece) <= 2 * piece_chars for piece in pieces)
    assert all(len(piece) >= piece_chars for piece in pieces[:-1])


def test_text_without_white_space_is_cut_at_a_fixed_place() -> None:
    assert [len(piece) for piece in cut_pieces(["a" * 35], 8)] == [16, 16, 3]


def test_short_text_is_one_piece() -> None:
    text = "word " * (2 * PIECE_CHARS // 5)
    assert list(cut_pieces([text])) == [text]


def test_ids_of_pieces_are_ids_of_the_whole(any_tokenizer: Tokenizer) -> None:
    if any_tokenizer.kind == "ngram":
        # its tokens cross white space: only the cuts that encoding makes by itself leave no trace.
        text = "".join(random.Random(0).choices("abc de\n", k=3 * PIECE_CHARS))
        pieces = list(cut_pieces([text]))
        assert len(pieces) > 1
        joined = np.concatenate([any_tokenizer.encode(piece) for piece in pieces])
        assert np.array_equal(joined, any_tokenizer.encode(text))
        return
    rng = random.Random(0)
    for _ in range(300):
        # words are shorter than a piece, so that there is always a safe place.
        words = ["".join(rng.choices(CHARS, k=rng.randrange(12))) + rng.choice("a5.é") for _ in range(40)]
        text = "".join(word + rng.choice([" ", "\n", "  ", "\t\n "]) for word in words)
        pieces = list(cut_pieces([text], 16))
        assert len(pieces) > 5
        joined = np.concatenate([any_tokenizer.encode(piece) for piece in pieces])
        assert np.array_equal(joined, any_tokenizer.encode(text))

"""Encodings, growth, files and speed of the n-gram tokenizer; what all kinds do is tested for all kinds."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from rhapsode.config import build_config
from rhapsode.errors import StateError, UserError
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.ngram.plain import greedy_plain, shortest_plain
from rhapsode.text.ngram.tokenizer import NgramTokenizer
from rhapsode.text.pieces import PIECE_CHARS
from rhapsode.text.tokenizer import load_tokenizer, train_tokenizer


def test_it_packs_more_than_merges_do(ngram: NgramTokenizer, prose: str) -> None:
    rest = prose[1_000_000:1_400_000]
    bpe = train_tokenizer(iter([prose[:1_000_000]]), TokenizerConfig(max_vocab_size=ngram.vocab_size))
    assert len(bpe.encode(rest)) > 1.1 * len(ngram.encode(rest))


def test_encodings(ngram: NgramTokenizer, prose: str) -> None:
    text = prose[500_000:520_000] + "é中😀"
    greedy = NgramTokenizer(ngram.learnt, "greedy")
    assert ngram.encode(text).tolist() == shortest_plain(ngram.learnt, text.encode())
    assert greedy.encode(text).tolist() == greedy_plain(ngram.learnt, text.encode())
    assert len(ngram.encode(text)) < len(greedy.encode(text))
    assert ngram.fingerprint != greedy.fingerprint
    config = build_config(TokenizerConfig, {"kind": "ngram", "encoding": "greedy"}, "tokenizer")
    assert NgramTokenizer.train([text], config).encoding == "greedy"


@pytest.mark.parametrize("encoding", ["shortest", "greedy"])
def test_bytes_that_are_no_text_are_written_as_all_others(ngram: NgramTokenizer, prose: str, encoding: str) -> None:
    data = bytes(random.Random(0).choices(prose[:1000].encode() + bytes(range(256)), k=5_000))
    plain = shortest_plain if encoding == "shortest" else greedy_plain
    tokenizer = NgramTokenizer(ngram.learnt, encoding)
    assert tokenizer.encode(data).tolist() == plain(ngram.learnt, data)


def test_megabytes_of_broken_text_encode_in_linear_time(ngram: NgramTokenizer) -> None:
    data = b"a\xe9" * 2_000_000
    begin = time.process_time()
    ids = ngram.encode(data)
    assert time.process_time() - begin < 5
    assert ngram.decode_bytes(ids) == data


def test_long_text_is_cut_alike_however_many_threads(ngram: NgramTokenizer, prose: str) -> None:
    text = prose[: 5 * PIECE_CHARS]
    ids = ngram.encode(text)
    assert ngram.decode(ids) == text
    from rhapsode.text.pieces import cut_pieces

    pieces = list(cut_pieces((text,)))
    assert len(pieces) > 2
    assert np.array_equal(np.concatenate([ngram.encode(piece) for piece in pieces]), ids)


def test_growth_keeps_ids_and_the_cap(prose: str) -> None:
    begun = NgramTokenizer.train([prose[:50_000]], TokenizerConfig(kind="ngram", max_vocab_size=400))
    grown = begun.grow([prose[50_000:150_000]], 600)
    assert grown.vocab_size == 600
    assert all(grown.token_bytes(i) == begun.token_bytes(i) for i in range(begun.vocab_size))
    rest = prose[150_000:200_000]
    assert len(grown.encode(rest)) < len(begun.encode(rest))
    assert grown.decode(begun.encode(rest)) == rest
    assert begun.grow([rest], 400).learnt == begun.learnt
    assert begun.grow([], 500).learnt == begun.learnt
    with pytest.raises(UserError, match=r"^cap must be at least the size that there is; got 399 and 400 ids"):
        begun.grow([rest], 399)


def test_a_cap_without_room_for_bytes() -> None:
    message = r"tokenizer\.max_vocab_size must be at least 259 \(3 specials and 256 bytes\); got 258"
    with pytest.raises(UserError, match=message):
        build_config(TokenizerConfig, {"kind": "ngram", "max_vocab_size": 258}, "tokenizer")


def test_encodings_must_be_known_and_wanted() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.encoding must be 'shortest' or 'greedy'; got 'best'"):
        build_config(TokenizerConfig, {"kind": "ngram", "encoding": "best"}, "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer\.encoding must be left out unless tokenizer\.kind is ngram; got g"):
        build_config(TokenizerConfig, {"kind": "bpe", "encoding": "greedy"}, "tokenizer")
    with pytest.raises(ValueError, match="an encoding of shortest, greedy was expected"):
        NgramTokenizer([], "best")


def test_a_changed_file(ngram: NgramTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    ngram.save(path)
    value = json.loads(path.read_text())
    learnt = value["payload"]["learnt"]
    for payload, message in [
        ({"learnt": learnt[::-1], "encoding": "shortest"}, "must match its own fingerprint"),
        ({"learnt": learnt, "encoding": "greedy"}, "must match its own fingerprint"),
        ({"learnt": learnt, "encoding": "best"}, r"damaged \(an encoding of"),
        ({"learnt": [*learnt, learnt[0]], "encoding": "shortest"}, r"damaged \(tokens of 2 to 31 bytes"),
        ({"learnt": learnt}, "damaged"),
    ]:
        path.write_text(json.dumps({**value, "payload": payload}))
        with pytest.raises(StateError, match=message):
            load_tokenizer(path)


@pytest.mark.parametrize(("run", "encoding"), [("a", "shortest"), ("a", "greedy"), ("the ", "shortest")])
def test_ten_megabytes_of_one_thing_encode_in_linear_time(ngram: NgramTokenizer, run: str, encoding: str) -> None:
    runs = [b"a" * n for n in range(2, 32)]
    tokenizer = NgramTokenizer(list(dict.fromkeys([*ngram.learnt, *runs])), encoding)
    text = run * (10_000_000 // len(run))
    tokenizer.encode(text[:1000])
    begin = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - begin < 10
    assert int(tokenizer.num_bytes[ids].sum()) == len(text)

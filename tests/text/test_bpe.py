"""The fast encoder gives the ids of the library that learnt the merges, and stays fast on text made to break it."""

import random
import time
from typing import Any

import numpy as np
import pytest

from rhapsode.text import bpe as bpe_module
from rhapsode.text.bpe import PATTERN, BpeTokenizer
from rhapsode.text.bpe_plain import build_plain, learn_merges
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.pieces import PIECE_CHARS


@pytest.fixture(scope="module")
def plain(bpe: BpeTokenizer) -> Any:
    return build_plain([bpe.token_bytes(i) for i in range(bpe.vocab_size)], bpe.pattern)


def assert_same(bpe: BpeTokenizer, plain: Any, text: str) -> None:
    assert np.array_equal(bpe.encode(text), plain.encode(text).ids)


def test_same_ids_on_documentation(bpe: BpeTokenizer, plain: Any, prose: str) -> None:
    # long enough to be cut into pieces several times.
    text = prose[-8 * PIECE_CHARS :]
    assert_same(bpe, plain, text)
    assert len(text) / len(bpe.encode(text)) > 2.8


def test_same_ids_on_random_unicode(bpe: BpeTokenizer, plain: Any) -> None:
    rng = random.Random(0)
    for top in (0x250, 0x3000, 0xD800):
        assert_same(bpe, plain, "".join(chr(rng.randrange(1, top)) for _ in range(30_000)))
    high = "".join(chr(rng.randrange(0xE000, 0x110000)) for _ in range(30_000))
    assert_same(bpe, plain, high)
    assert_same(bpe, plain, "".join(rng.choices("aeinst '’\u0301\u3000\x85\x1c\r\n\t0٣.!_é中", k=100_000)))


def test_same_ids_on_every_character(bpe: BpeTokenizer, plain: Any) -> None:
    # both libraries must agree on what is a letter, a number and white space.
    code_points = [i for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    assert_same(bpe, plain, "".join(f"{chr(i)}a " for i in code_points[:: 1 + len(code_points) // 100_000]))


def test_same_ids_on_runs_of_all_lengths(bpe: BpeTokenizer, plain: Any) -> None:
    for run in ("a", " ", "\n", "!", "7", "é", "中", "ab", "' ", "aaaaaaaa "):
        for length in range(1, 50):
            assert_same(bpe, plain, run * length + "x")


def test_invalid_bytes_are_byte_ids_between_text(bpe: BpeTokenizer, plain: Any) -> None:
    expected = [*plain.encode("the naïve ").ids, 0xFF + 3, 0xC3 + 3, *plain.encode("(return)").ids]
    assert bpe.encode(b"the na\xc3\xafve \xff\xc3(return)").tolist() == expected


def test_the_library_that_learnt_agrees(prose: str) -> None:
    from tokenizers import Tokenizer, models, trainers

    from rhapsode.text.bpe_plain import _pre_tokenizer, byte_chars

    text = prose[:150_000]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer(PATTERN)
    alphabet = list(byte_chars().values())
    trainer = trainers.BpeTrainer(vocab_size=1000, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([text], trainer)
    ours = BpeTokenizer.train([text], TokenizerConfig(max_vocab_size=1003))
    assert ours.vocab_size == 1003
    to_byte = {char: byte for byte, char in byte_chars().items()}
    theirs = [bytes(to_byte[char] for char in token) for token in trained.encode(text).tokens]
    assert [ours.token_bytes(i) for i in ours.encode(text).tolist()] == theirs


def test_training_is_deterministic(prose: str) -> None:
    texts = [prose[i : i + 10_000] for i in range(0, 300_000, 10_000)]
    first = BpeTokenizer.train(iter(texts), TokenizerConfig(max_vocab_size=800))
    again = BpeTokenizer.train(iter(texts), TokenizerConfig(max_vocab_size=800))
    assert first.merged == again.merged
    assert first.vocab_size == 800


def test_pairs_that_occur_once_are_not_learnt() -> None:
    assert learn_merges(["abcdefg"], 100, PATTERN) == []
    assert learn_merges(["ab ab"], 100, PATTERN) == [b"ab"]
    assert BpeTokenizer.train(["ab ab"], TokenizerConfig()).vocab_size == 260


def test_training_reads_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_module, "MAX_TRAINING_BYTES", 1_000)
    read = 0

    def texts() -> Any:
        nonlocal read
        while True:
            read += 1
            yield f"word{read} " * 10

    BpeTokenizer.train(texts(), TokenizerConfig())
    assert 10 < read < 20


def test_numbers_are_cut_in_threes(bpe: BpeTokenizer) -> None:
    trained = BpeTokenizer.train(["1234567 " * 100], TokenizerConfig())
    assert [trained.token_bytes(i) for i in trained.encode("1234567").tolist()] == [b"123", b"456", b"7"]


@pytest.mark.parametrize("run", ["a", " ", "\n", "!", "5", "é", "中", "ab", "\u3000", "'s"])
def test_a_megabyte_of_one_thing_takes_seconds_at_most(bpe: BpeTokenizer, run: str) -> None:
    text = run * (1_000_000 // len(run))
    begin = time.perf_counter()
    ids = bpe.encode(text)
    assert time.perf_counter() - begin < 5
    assert bpe.decode(ids) == text


@pytest.mark.parametrize("run", ["a", " ", "=", "\r\n"])
def test_a_megabyte_of_one_thing_can_be_learnt_from(run: str) -> None:
    text = run * (1_000_000 // len(run))
    begin = time.perf_counter()
    tokenizer = BpeTokenizer.train([text], TokenizerConfig())
    assert time.perf_counter() - begin < 10
    assert tokenizer.num_bytes.max() <= 16
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_must_be_new() -> None:
    for merged in ([b"ab", b"ab"], [b"a"], [b""]):
        with pytest.raises(ValueError, match="tokens of at least two bytes, each once"):
            BpeTokenizer(merged)

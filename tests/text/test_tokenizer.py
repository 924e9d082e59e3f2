"""The contract, held by every kind of tokenizer."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError, UserError
from rhapsode.text.config import TOKENIZERS, TokenizerConfig
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)


@given(st.text())
@shared
def test_text_comes_back(any_tokenizer: Tokenizer, text: str) -> None:
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.decode(ids) == text
    assert any_tokenizer.decode_bytes(ids.tolist()) == text.encode()
    assert ids.dtype == np.uint16
    assert ids.ndim == 1
    assert int(any_tokenizer.num_bytes[ids].sum()) == len(text.encode())
    assert np.array_equal(any_tokenizer.encode(text.encode()), ids)
    assert not np.isin(ids, [any_tokenizer.pad_id, any_tokenizer.bos_id, any_tokenizer.eos_id]).any()


@given(st.binary())
@shared
def test_bytes_come_back(any_tokenizer: Tokenizer, data: bytes) -> None:
    ids = any_tokenizer.encode(data)
    assert any_tokenizer.decode_bytes(ids) == data
    assert any_tokenizer.decode(ids) == data.decode("utf-8", "replace")


def test_many_random_bytes(any_tokenizer: Tokenizer) -> None:
    data = random.Random(1).randbytes(40_000) + "naïve 中文".encode() + b"\xed\xa0\x80"
    assert any_tokenizer.decode_bytes(any_tokenizer.encode(data)) == data


def test_layout(any_tokenizer: Tokenizer) -> None:
    assert (any_tokenizer.pad_id, any_tokenizer.bos_id, any_tokenizer.eos_id) == (0, 1, 2)
    assert any_tokenizer.token_bytes(1) == b""
    assert [any_tokenizer.token_bytes(3 + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert any_tokenizer.num_bytes.shape == (any_tokenizer.vocab_size,)
    assert any_tokenizer.num_bytes.dtype == np.int64
    assert any_tokenizer.num_bytes[:4].tolist() == [0, 0, 0, 1]
    lengths = [len(any_tokenizer.token_bytes(i)) for i in range(any_tokenizer.vocab_size)]
    assert any_tokenizer.num_bytes.tolist() == lengths


def test_specials_decode_to_nothing(any_tokenizer: Tokenizer) -> None:
    ids = any_tokenizer.encode("héllo").tolist()
    assert any_tokenizer.decode([1, *ids[:2], 0, *ids[2:], 2, 0]) == "héllo"
    assert any_tokenizer.decode([]) == ""
    assert any_tokenizer.decode(np.array([], dtype=np.uint16)) == ""


def test_names_of_specials_in_text_are_text(any_tokenizer: Tokenizer) -> None:
    text = "<|pad|><|bos|> and <|eos|><|endoftext|>"
    assert any_tokenizer.decode(any_tokenizer.encode(text)) == text


def test_errors(any_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"text must not hold a lone surrogate; got U\+D801 at character 3"):
        any_tokenizer.encode("abc\ud801")
    last = any_tokenizer.vocab_size - 1
    with pytest.raises(UserError, match=rf"token ids must lie between 0 and {last}; got {last + 1}"):
        any_tokenizer.decode([5, last + 1])
    with pytest.raises(UserError, match=rf"token ids must lie between 0 and {last}; got -1"):
        any_tokenizer.decode_bytes([-1, 5])
    with pytest.raises(UserError, match="token ids must lie"):
        any_tokenizer.token_bytes(last + 1)


def test_save_and_load(any_tokenizer: Tokenizer, tmp_path: Path, prose: str) -> None:
    path = tmp_path / "tokenizer.json"
    any_tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(any_tokenizer)
    assert loaded.fingerprint == any_tokenizer.fingerprint
    assert loaded.vocab_size == any_tokenizer.vocab_size
    assert np.array_equal(loaded.encode(prose[:50_000]), any_tokenizer.encode(prose[:50_000]))


def test_cannot_save(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="must be writable"):
        any_tokenizer.save(tmp_path / "missing" / "tokenizer.json")


def test_fingerprints_differ(bpe: Tokenizer) -> None:
    texts = ["naïve 中文 text " * 30]
    trained = [train_tokenizer(iter(texts), TokenizerConfig(kind=kind)) for kind in TOKENIZERS.names()]
    fingerprints = {tokenizer.fingerprint for tokenizer in [*trained, bpe]}
    assert len(fingerprints) == 5
    assert all(len(fingerprint) == 64 for fingerprint in fingerprints)


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe", "ngram"])
@pytest.mark.parametrize("cap", [259, 260, 300, None])
def test_the_cap_is_never_exceeded(kind: str, cap: int | None, prose: str) -> None:
    text = prose[:30_000] + "".join(map(chr, range(0x400, 0x500))) * 3
    tokenizer = train_tokenizer(iter([text]), TokenizerConfig(kind=kind, max_vocab_size=cap))
    assert 259 <= tokenizer.vocab_size <= (cap or 4096)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe", "ngram"])
def test_nothing_to_learn_from(kind: str) -> None:
    tokenizer = train_tokenizer(iter([]), TokenizerConfig(kind=kind))
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode(tokenizer.encode("é x")) == "é x"


@pytest.mark.parametrize("kind", ["chars", "bpe", "ngram"])
def test_training_refuses_surrogates(kind: str) -> None:
    with pytest.raises(UserError, match=r"text must not hold a lone surrogate; got U\+D800 at character 1"):
        train_tokenizer(iter(["good", "a\ud800"]), TokenizerConfig(kind=kind))


def test_a_truncated_file(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    any_tokenizer.save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StateError, match=r"tokenizer\.json must hold JSON, but it is damaged"):
        load_tokenizer(path)
    with pytest.raises(StateError, match=r"gone\.json must be readable"):
        load_tokenizer(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "words"}, UserError, r"the tokenizer kind in .* must be one of .*; got 'words'"),
        ({"kind": 3}, StateError, "must hold a tokenizer; got other JSON"),
        ({"payload": []}, StateError, "must hold a tokenizer; got other JSON"),
        ({"format_version": 99}, StateError, "has format version 99, and this rhapsode reads up to 1"),
        ({"payload": {}}, StateError, "must hold a tokenizer, but it is damaged"),
        ({"payload": {"chars": 5}}, StateError, "must hold a tokenizer, but it is damaged"),
        ({"payload": {"chars": "éé"}}, StateError, "must hold a tokenizer, but it is damaged"),
        ({"payload": {"chars": "éa"}}, StateError, "must hold a tokenizer, but it is damaged"),
        ({"payload": {"chars": "üx"[:1]}}, StateError, "must match its own fingerprint"),
        ({"kind": "bytes"}, StateError, "must match its own fingerprint"),
    ],
)
def test_a_changed_file(tmp_path: Path, change: dict[str, object], error: type[Exception], message: str) -> None:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(iter(["éé ü"]), TokenizerConfig(kind="chars")).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        load_tokenizer(path)


def test_a_changed_bpe_file(bpe: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    bpe.save(path)
    value = json.loads(path.read_text())
    merged = value["payload"]["merged"]
    for changed, message in [
        ([merged[1], merged[0], *merged[2:]], "must match its own fingerprint"),
        ([merged[0], *merged], r"damaged \(tokens of at least two bytes"),
        ([*merged, "x"], r"damaged \(tokens of at least two bytes"),
        ([*merged, "\u0400x"], "must hold a tokenizer, but it is damaged"),
    ]:
        value["payload"]["merged"] = changed
        path.write_text(json.dumps(value))
        with pytest.raises(StateError, match=message):
            load_tokenizer(path)

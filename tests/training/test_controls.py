"""The cheap figures beside every curve are those of the controls, fitted on the training text alone."""

import math
from pathlib import Path

import numpy as np
import pytest

from rhapsode.runfolder import RunFolder
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.shards import TokenArray
from rhapsode.training import controls
from rhapsode.training.controls import control_figures
from rhapsode.training.picture import draw_losses


def encode(text: str) -> TokenArray:
    tokenizer = BytesTokenizer()
    ids = np.concatenate([[tokenizer.bos_id], tokenizer.encode(text), [tokenizer.eos_id]]).astype(tokenizer.dtype)
    return TokenArray(ids, np.zeros(1, dtype=np.int64), len(text.encode()))


def random_text(seed: int, count: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("abcd"), count))


def test_what_cannot_be_predicted_costs_its_entropy() -> None:
    figures = control_figures(encode(random_text(0, 20_000)), encode(random_text(1, 5000)), BytesTokenizer())
    assert figures["ln_vocab"] == pytest.approx(math.log(259))
    # four equally likely letters are two bits; smoothing and chance cost a little.
    assert figures["unigram_bits_per_byte"] == pytest.approx(2, abs=0.02)
    assert 1.98 < figures["kneser_ney_bits_per_byte"] < 2.3
    assert figures["controls_seconds"] > 0


def test_what_repeats_costs_kneser_ney_almost_nothing() -> None:
    figures = control_figures(encode("abcdefgh" * 5000), encode("abcdefgh" * 100), BytesTokenizer())
    assert figures["unigram_bits_per_byte"] == pytest.approx(3, abs=0.05)
    assert figures["kneser_ney_bits_per_byte"] < 0.1


def test_long_texts_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = encode(random_text(0, 2000) + "z" * 8000), encode(random_text(1, 500))
    monkeypatch.setattr(controls, "MAX_COUNTED_BYTES", 2000)
    part = control_figures(train, validation, BytesTokenizer())
    alone = control_figures(TokenArray(train.ids[:2000], train.doc_starts, 2000), validation, BytesTokenizer())
    assert part["unigram_bits_per_byte"] == alone["unigram_bits_per_byte"]
    assert part["kneser_ney_bits_per_byte"] == alone["kneser_ney_bits_per_byte"]


def test_the_picture_is_drawn_from_the_metrics(tmp_path: Path) -> None:
    rows = [{"elapsed_s": i / 2, "train_nats": 5.0 / (i + 1)} for i in range(20)]
    rows[-1]["val_bits_per_byte"] = 2.0
    figures = {"ln_vocab": 5.5, "unigram_bits_per_byte": 4.0, "kneser_ney_bits_per_byte": 3.0}
    folder = RunFolder(tmp_path)
    draw_losses(folder, rows, figures)
    first = folder.loss_picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    rows[3]["train_nats"] = 9.0
    draw_losses(folder, rows, figures)
    assert folder.loss_picture.read_bytes() != first


def test_the_counted_head_is_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    train = encode("abc" * 1000)
    assert controls.counted_head(train, BytesTokenizer()) is train
    monkeypatch.setattr(controls, "MAX_COUNTED_BYTES", 500)
    head = controls.counted_head(train, BytesTokenizer())
    np.testing.assert_array_equal(head.ids, train.ids[: len(head)])
    assert head.num_bytes == int(BytesTokenizer().num_bytes[head.ids].sum())
    assert abs(head.num_bytes - 500) <= 1

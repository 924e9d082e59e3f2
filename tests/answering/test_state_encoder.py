"""The encoder made of a model's states."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rhapsode.answering.config import ENCODERS
from rhapsode.answering.state_encoder import StateEncoder, StateEncoderConfig, count_weights, cut_pairs, pool_states
from rhapsode.errors import StateError, UserError
from rhapsode.memory.encoders import load_encoder
from rhapsode.models.decoder import Decoder
from rhapsode.text.tokenizer import Tokenizer
from tiny_runs import make_words, train_tiny, write_texts

CONFIG = StateEncoderConfig(width=24, passages=64, passage_chars=64, steps=20, batch_size=32)
TEXTS = [make_words(400, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    train_tiny(write_texts(folder / "texts"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def encoder(run: Path) -> StateEncoder:
    return StateEncoder.train(run, TEXTS, CONFIG)


def plain_pool(decoder: Decoder, tokenizer: Tokenizer, weights: torch.Tensor, text: str) -> torch.Tensor:
    """One text at a time, one token at a time."""
    ids = tokenizer.encode(text).astype(np.int64)
    total, weight = torch.zeros(2 * decoder.embedder.table.weight.shape[1]), 0.0
    for start in range(0, len(ids), decoder.config.seq_len):
        piece = torch.from_numpy(ids[start : start + decoder.config.seq_len])[None]
        states, _ = decoder.hidden(piece)
        embedded = decoder.embedder(piece, piece.new_zeros(1, decoder.embedder.context))
        for position in range(piece.shape[1]):
            share = float(weights[piece[0, position]])
            total += share * torch.cat([states[0, position], embedded[0, position]]).float()
            weight += share
    return total / max(weight, 1e-9)


def test_pooling_equals_the_plain_twin(encoder: StateEncoder) -> None:
    texts = ["a", make_words(3), "", make_words(40), "é", make_words(9, seed=4)]
    weights = torch.rand(encoder._tokenizer.vocab_size) + 0.1
    with torch.no_grad():
        pooled = pool_states(encoder._decoder, encoder._tokenizer, weights, texts)
        plain = torch.stack([plain_pool(encoder._decoder, encoder._tokenizer, weights, text) for text in texts])
    # float32 sums in another order.
    torch.testing.assert_close(pooled, plain, rtol=1e-4, atol=1e-4)


def test_rows_have_length_one_and_blank_text_gives_zeros(encoder: StateEncoder) -> None:
    rows = encoder.encode(["some words", "", "  ", "other"])
    assert rows.shape == (4, 24)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 0, 1], atol=1e-5)
    assert encoder.encode([]).shape == (0, 24)


def test_training_brings_halves_together(run: Path, encoder: StateEncoder) -> None:
    pairs = cut_pairs(TEXTS, CONFIG)
    first, second = (encoder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    longer = StateEncoder.train(run, TEXTS, CONFIG.model_copy(update={"steps": 400, "learning_rate": 1e-3}))
    better_first, better_second = (longer.encode([pair[side] for pair in pairs]) for side in (0, 1))

    def found(one: np.ndarray, other: np.ndarray) -> float:
        return float(((one @ other.T).argmax(axis=1) == np.arange(len(one))).mean())

    assert found(better_first, better_second) > found(first, second)


def test_it_comes_back_from_disk(run: Path, encoder: StateEncoder, tmp_path: Path) -> None:
    for folder in (run / "encoder-state", tmp_path / "elsewhere"):
        encoder.save(folder)
        loaded = load_encoder(folder, ENCODERS)
        assert isinstance(loaded, StateEncoder)
        assert loaded.fingerprint == encoder.fingerprint
        assert (loaded.encode(["some words"]) == encoder.encode(["some words"])).all()
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert load_encoder(moved / "encoder-state", ENCODERS).fingerprint == encoder.fingerprint
    assert StateEncoder.train(run, TEXTS, CONFIG).fingerprint == encoder.fingerprint


def test_what_does_not_fit_is_refused(run: Path, encoder: StateEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have at least 16 passages to train on; got 0"):
        StateEncoder.train(run, ["short"], CONFIG)
    with pytest.raises(UserError, match="RUN must name the folder of a run"):
        StateEncoder.train(tmp_path, TEXTS, CONFIG)
    folder = tmp_path / "encoder"
    encoder.save(folder)
    header = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**header, "run": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="RUN must name the folder of a run"):
        load_encoder(folder, ENCODERS)
    (folder / "encoder.json").write_text(json.dumps({**header, "fingerprint": "0"}))
    with pytest.raises(StateError, match="one of them changed"):
        load_encoder(folder, ENCODERS)
    for changed, message in (
        ({"projection": torch.ones(24, 3)}, "do not fit the model"),
        ({"mean": torch.ones(3)}, "do not fit the model"),
        ({"token_weights": torch.ones(3)}, "do not fit the tokenizer"),
    ):
        encoder.save(folder)
        save_file({**load_file(folder / "encoder.safetensors"), **changed}, folder / "encoder.safetensors")
        with pytest.raises(StateError, match=message):
            load_encoder(folder, ENCODERS)


def test_rare_tokens_count_more(encoder: StateEncoder) -> None:
    weights = count_weights(encoder._tokenizer, [("aaaa", "aaab")], 0.1)
    one, other = (int(encoder._tokenizer.encode(letter)[0]) for letter in "ab")
    assert weights[other] == pytest.approx(0.1 / (0.1 + 1 / 8))
    assert weights[one] == pytest.approx(0.1 / (0.1 + 7 / 8))
    assert weights.max() == 1

"""The static encoder as a whole."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from encoders.texts import random_texts
from rhapsode.errors import StateError, UserError
from rhapsode.memory.encoders import StaticEncoder, StaticEncoderConfig, load_encoder
from rhapsode.memory.encoders.spelling import spelling_vector
from rhapsode.memory.encoders.words import split_words

CONFIG = StaticEncoderConfig(width=64, min_count=1)
ENCODER = StaticEncoder.train(random_texts(0), CONFIG)
WIDE = StaticEncoder.train(random_texts(0))
TEXTS = ["w1 w2 w3", "", "?!", "zorblatt w4", "The quibblex engine", "w1 " * 50]


def plain_encode(encoder: StaticEncoder, text: str) -> np.ndarray:
    total = np.zeros(encoder.width)
    for word in split_words(text):
        vector = spelling_vector(word, encoder.width).astype(np.float64)
        if word in encoder._words:
            share = encoder.config.spelling
            vector = share * vector + (1 - share) * encoder._meanings[encoder._words.index(word)].astype(np.float64)
        rare = encoder.config.rare_weight
        total += vector * rare / (rare + encoder.probability(word))
    total -= (total @ encoder._common) * encoder._common
    length = np.linalg.norm(total)
    return total / length if length > 1e-6 else np.zeros(encoder.width)


@given(st.lists(st.text(alphabet="w1 2zqx.", max_size=40), max_size=5))
def test_it_equals_the_plain_twin(texts: list[str]) -> None:
    rows = ENCODER.encode(texts)
    assert rows.shape == (len(texts), 64)
    assert rows.dtype == np.float32
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_allclose(row, plain_encode(ENCODER, text), atol=2e-5)


def test_rows_have_length_one_and_text_without_words_gives_zeros() -> None:
    lengths = np.linalg.norm(ENCODER.encode(TEXTS), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 0, 1, 1, 1], atol=1e-5)


def test_a_vector_does_not_depend_on_the_other_texts_or_on_earlier_calls() -> None:
    texts = [*random_texts(3), *TEXTS]
    together = ENCODER.encode(texts)
    alone = np.concatenate([StaticEncoder.train(random_texts(0), CONFIG).encode([text]) for text in texts])
    assert (together == alone).all()


def test_names_that_were_never_seen_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = ["".join(rng.choice(letters, 8)) for _ in range(100)]
    questions = WIDE.encode([f"Where was the {name} engine built?" for name in names])
    memories = WIDE.encode([f"The {name} engine was built in Lisbon." for name in names])
    assert ((questions @ memories.T).argmax(axis=1) == np.arange(100)).all()
    typo, name = WIDE.encode(["zorblat", "zorblatt"])
    assert typo @ name > 0.4


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    ENCODER.save(tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert isinstance(loaded, StaticEncoder)
    assert loaded.fingerprint == ENCODER.fingerprint
    assert (loaded.encode(TEXTS) == ENCODER.encode(TEXTS)).all()
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_the_fingerprint_follows_from_what_was_trained() -> None:
    assert StaticEncoder.train(random_texts(0), CONFIG).fingerprint == ENCODER.fingerprint
    assert StaticEncoder.train(random_texts(1), CONFIG).fingerprint != ENCODER.fingerprint
    other = CONFIG.model_copy(update={"rare_weight": 1e-4})
    assert StaticEncoder.train(random_texts(0), other).fingerprint != ENCODER.fingerprint


def test_without_text_it_knows_spelling() -> None:
    encoder = StaticEncoder.train([])
    one, other = encoder.encode(["zorblatt", "quibblex"])
    assert abs(one @ other) < 0.3
    assert encoder.probability("zorblatt") == 0


def test_it_does_not_import_torch() -> None:
    code = "import sys; from rhapsode.memory.encoders import StaticEncoder as S; S.train(['a b c']).encode(['a']); "
    code += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_what_is_not_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be a folder with encoder\.json; got"):
        load_encoder(tmp_path)
    ENCODER.save(tmp_path)
    header = json.loads((tmp_path / "encoder.json").read_text())
    arrays = load_file(tmp_path / "encoder.safetensors")

    def put(**changes: object) -> None:
        (tmp_path / "encoder.json").write_text(json.dumps({**header, **changes}))

    put(format_version=99)
    with pytest.raises(StateError, match=r"has format version 99.*Install a newer rhapsode"):
        load_encoder(tmp_path)
    put(kind="statik")
    with pytest.raises(UserError, match="Did you mean 'static'"):
        load_encoder(tmp_path)
    put(words=header["words"][:-1])
    with pytest.raises(StateError, match="it is damaged"):
        load_encoder(tmp_path)
    put(config={**header["config"], "width": 63})
    with pytest.raises(StateError, match=r"it is damaged \(encoder.width must be a multiple of 8; got 63. Try 56"):
        load_encoder(tmp_path)
    put(total=header["total"] + 1)
    with pytest.raises(StateError, match=r"it does not match its own fingerprint.*rebuild --reencode"):
        load_encoder(tmp_path)
    put(kind="callable")
    with pytest.raises(UserError, match="must be of kind static; got 'callable'"):
        StaticEncoder.load(tmp_path)
    put()
    save_file({name: array for name, array in arrays.items() if name != "common"}, tmp_path / "encoder.safetensors")
    with pytest.raises(StateError, match="it is damaged"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StateError, match="it is damaged"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(StateError, match="safetensors is missing"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").mkdir()
    with pytest.raises(StateError, match="must be readable; got: Is a directory"):
        load_encoder(tmp_path)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match="must be writable"):
        ENCODER.save(tmp_path / "file" / "encoder")


@pytest.mark.slow
def test_a_text_of_two_megabytes_takes_seconds() -> None:
    from time import perf_counter

    began = perf_counter()
    encoder = StaticEncoder.train(random_texts(0, num_texts=700, num_words=1000))
    assert perf_counter() - began < 10
    texts = [" ".join(text.split()[:10]) for text in random_texts(1, num_texts=5000, num_words=10)]
    encoder.encode(texts)
    began = perf_counter()
    encoder.encode(texts)
    # a generous bound for a busy machine; the page has the measured rate.
    assert len(texts) / (perf_counter() - began) > 4_000

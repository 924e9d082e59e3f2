"""What a run was taught has a say in what its model says, and none once it is forgotten."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rhapsode import api
from rhapsode.answering.mixing import build_mixture, encode_row, follow_rows
from rhapsode.answering.occurrences import decode_fast, find_in_run
from rhapsode.errors import StateError, UserError
from rhapsode.memory.contracts import Row
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.training.encoder import documents, has_encoder
from tiny_runs import train_tiny, write_texts

FACT = "zorblatt: quonk vlim prett"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; read-only."""
    folder = tmp_path_factory.mktemp("mixing")
    train_tiny(write_texts(folder / "texts"), folder / "run")
    return folder / "run"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> api.Model:
    return api.load(shutil.copytree(trained, tmp_path / "run"))


def row(row_id: int, text: str) -> Row:
    return Row(row_id, text, None, None, "default", {}, {}, 0.0, 1, None, None)


def test_generation_continues_what_was_taught_until_it_is_forgotten(model: api.Model) -> None:
    settings = {"temperature": 0.0, "max_new_tokens": 11}
    before = model.generate("zorblatt: quonk", **settings, memory=True).text
    ids = model.teach(FACT).ids
    with_memory = model.generate("zorblatt: quonk", **settings, memory=True)
    assert with_memory.text == " vlim prett"
    assert with_memory.ids[-1] == model.tokenizer.encode("t")[0]
    assert model.generate("zorblatt: quonk", **settings).text != with_memory.text
    assert "".join(c.text for c in model.stream("zorblatt: quonk", **settings, memory=True)) == with_memory.text
    assert model.generate("zorblatt: quonk", **settings, memory=True, space="default").text == with_memory.text
    model.forget(ids)
    assert model.generate("zorblatt: quonk", **settings, memory=True).text == before != with_memory.text


def test_rows_are_followed_exactly(model: api.Model) -> None:
    _, followed = build_mixture(model.folder, model.decoder, model.tokenizer, [row(1, "abc abd"), row(4, FACT)])
    follow_rows(followed, model.tokenizer, [row(4, FACT), row(9, "another row")])
    mixture, anew = build_mixture(model.folder, model.decoder, model.tokenizer, [row(4, FACT), row(9, "another row")])
    assert followed.row_ids == anew.row_ids == (4, 9)
    context = model.tokenizer.encode("zorblatt: qu").astype(np.int64)
    for memory_state in (context, context[:3], encode_row("another", model.tokenizer)[:-1]):
        np.testing.assert_array_equal(
            followed.predict(followed.start(memory_state)).log_probabilities,
            anew.predict(anew.start(memory_state)).log_probabilities,
        )
    assert len(mixture.memories) == 2


def test_facts_of_one_form_are_told_apart(model: api.Model) -> None:
    model.teach(["karsk: gate nine", "odra: gate two"])
    for begin, end in (("karsk: gate", " nine"), ("odra: gate", " two")):
        told = model.generate(begin, memory=True, temperature=0.0, max_new_tokens=len(end))
        assert told.text == end


def test_gates_of_other_weights_are_fitted_anew(model: api.Model) -> None:
    build_mixture(model.folder, model.decoder, model.tokenizer, [])
    right = json.loads(model.folder.gate.read_text())
    wrong = {**right, "weights_sha256": "of another model", "text": right["taught"]}
    model.folder.gate.write_text(json.dumps(wrong))
    mixture, _ = build_mixture(model.folder, model.decoder, model.tokenizer, [])
    assert json.loads(model.folder.gate.read_text()) == right
    assert mixture.gate.payload() == right["taught"]


def test_where_no_row_matches_nothing_taught_has_a_part(model: api.Model) -> None:
    mixture, taught = build_mixture(model.folder, model.decoder, model.tokenizer, [])
    assert mixture.beneath is not None
    ids = load_token_array(model.folder.data / "validation").ids[:200].astype(np.int64)
    logits = torch.randn(model.tokenizer.vocab_size, generator=torch.Generator().manual_seed(0))
    before = mixture.mix(logits, mixture.start(ids))
    taught.learn(1, encode_row("ZZZZ ZZZZ", model.tokenizer))
    after = mixture.mix(logits, mixture.start(ids))
    assert torch.equal(before, after)
    assert torch.equal(before, mixture.beneath.mix(logits, mixture.beneath.start(ids)))
    row = encode_row("ZZZZ ZZZZ", model.tokenizer)
    told = mixture.mix(logits, mixture.start(row[:-2]))
    assert int(told.argmax()) == row[-2]


def test_the_gate_is_fitted_once(model: api.Model) -> None:
    build_mixture(model.folder, model.decoder, model.tokenizer, [])
    first = model.folder.gate.read_bytes()
    build_mixture(model.folder, model.decoder, model.tokenizer, [row(1, FACT)])
    assert model.folder.gate.read_bytes() == first
    model.folder.gate.write_bytes(first[:50])
    with pytest.raises(StateError, match=r"gate\.json must hold"):
        build_mixture(model.folder, model.decoder, model.tokenizer, [])


def test_occurrences_are_counted_by_part(trained: Path) -> None:
    folder = RunFolder(trained)
    model = api.load(trained)
    for part in ("training", "validation", "calibration"):
        text = next(documents(load_token_array(folder.data / part), model.tokenizer))[5:40]
        found = find_in_run(folder, [text, "not there at all"])
        assert found[part] == 1
        assert sum(found.values()) == 1
    assert find_in_run(folder, []) == {"training": 0, "validation": 0, "calibration": 0}


def test_fast_decoding_equals_the_tokenizers_own(trained: Path) -> None:
    model = api.load(trained)
    ids = np.random.default_rng(0).integers(0, model.tokenizer.vocab_size, 300_000).astype(np.uint16)
    for some in (ids, ids[:1], ids[:0]):
        assert decode_fast(some, model.tokenizer) == model.tokenizer.decode_bytes(some)
    with pytest.raises(UserError, match="token ids must lie between"):
        decode_fast(np.array([model.tokenizer.vocab_size]), model.tokenizer)


def test_documents_come_back_as_they_were(trained: Path) -> None:
    model = api.load(trained)
    kept = load_token_array(model.folder.data / "training")
    texts = list(documents(kept, model.tokenizer))
    assert len(texts) == len(kept.doc_starts) > 1
    sources = {path.read_text() for path in (trained.parent / "texts").iterdir()}
    assert set(texts) <= sources


def test_half_an_encoder_is_made_anew(model: api.Model) -> None:
    wanted = model.memory.encoder.fingerprint
    model.memory.close()
    (model.folder.encoder / "encoder.json").unlink()
    assert not has_encoder(model.folder)
    with api.open_memory(model.folder.path) as memory:
        assert memory.encoder.fingerprint == wanted
    assert has_encoder(model.folder)

"""Perplexity measures the text it is given, and says beside it what the cheap controls reach."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rhapsode import api
from rhapsode.errors import StateError, UserError
from rhapsode.evaluation.config import SUITES
from rhapsode.memory.unigram import Unigram
from rhapsode.models.scoring import bits_per_byte, score_tokens
from rhapsode.runfolder import RunFolder, read_json
from rhapsode.text.config import DataConfig
from rhapsode.text.prepare import encode_sources, encode_split
from rhapsode.text.split import open_sources
from tiny_runs import make_words, train_tiny, write_texts

CONTROLS = ("ln_vocab", "unigram_bits_per_byte", "kneser_ney_bits_per_byte")


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.txt"
    path.write_text(make_words(80, seed=99))
    return path


def test_the_suite_is_registered() -> None:
    assert "perplexity" in SUITES.names()
    with pytest.raises(UserError, match=r"^--suite must be one of .*perplexity.*; got 'perplexty'\. Did you mean"):
        SUITES.check("perplexty", "--suite")


def test_without_data_it_measures_what_the_run_kept_back(run: Path) -> None:
    result = api.load(run).evaluate()
    trained = read_json(RunFolder(run).run)["results"]
    assert result.data == "validation"
    assert result.bits_per_byte == trained["val_bits_per_byte"]
    assert result.nats_per_token == trained["val_nats_per_token"]
    assert result.interval == trained["interval"]
    assert {name: result[name] for name in CONTROLS} == {name: trained[name] for name in CONTROLS}


@pytest.mark.parametrize("task", ["continue", "reconstruct"])
def test_the_figure_of_a_model_that_streams_has_its_task(
    source: Path, tmp_path: Path, held_out: Path, task: str
) -> None:
    stream = {"chunk": 4, "num_bundles": 2, "task": task}
    settings = {"model": {"hypervector_stream": stream}, "training": {"steps": 1}}
    trained = train_tiny(source, tmp_path / "run", recipe="hsmn", settings=settings)
    assert read_json(tmp_path / "run" / "run.json")["results"]["task"] == trained.task == task
    model = api.load(tmp_path / "run")
    result = model.evaluate()
    assert (result.task, result.bits_per_byte) == (task, trained.val_bits_per_byte)
    assert model.evaluate(data=str(held_out)).task == task
    assert model.info().results["task"] == task


def test_only_a_model_that_streams_has_a_task(run: Path) -> None:
    assert "task" not in api.load(run).evaluate()
    assert "task" not in read_json(RunFolder(run).run)["results"]


def test_given_text_is_scored_whole(run: Path, source: Path, held_out: Path) -> None:
    model = api.load(run)
    result = model.evaluate(data=str(held_out))
    tokens = encode_sources([str(held_out)], model.tokenizer)
    nats = score_tokens(model.decoder, tokens)
    assert result.data == str(held_out)
    assert result.n == len(nats) == len(held_out.read_bytes()) + 1
    assert result.bits_per_byte == bits_per_byte(nats, np.asarray(tokens.ids)[1:], model.tokenizer.num_bytes)
    low, high = result.interval
    assert low < result.bits_per_byte < high
    # the controls are fitted on the run's training text and nothing else.
    train = encode_split(open_sources([str(source)], DataConfig()), model.tokenizer).train
    unigram = -Unigram.fit(train.ids, model.tokenizer.vocab_size).log_prob(np.asarray(tokens.ids))[1:]
    expected = bits_per_byte(unigram, np.asarray(tokens.ids)[1:], model.tokenizer.num_bytes)
    assert result.unigram_bits_per_byte == pytest.approx(expected, rel=1e-12)
    assert result.kneser_ney_bits_per_byte < result.unigram_bits_per_byte


def test_a_shorter_stride_gives_more_context(run: Path, held_out: Path) -> None:
    model = api.load(run)
    results = {stride: model.evaluate(data=str(held_out), stride=stride) for stride in (1, 4, 16)}
    assert len({result.bits_per_byte for result in results.values()}) == 3
    assert model.evaluate(data=str(held_out)).bits_per_byte == results[4].bits_per_byte
    with pytest.raises(UserError, match=r"^--stride must lie between 1 and seq_len; got 17 and 16\. Try 8\.$"):
        model.evaluate(stride=17)
    with pytest.raises(UserError, match=r"^--stride must lie between 1 and seq_len; got 0 and 16"):
        model.evaluate(stride=0)


def test_nothing_is_learnt_from_the_text(run: Path, held_out: Path) -> None:
    model = api.load(run)
    first = model.evaluate(data=str(held_out))
    assert model.evaluate(data=str(held_out), seed=5) == first


@pytest.mark.parametrize(
    ("text", "message"), [("", "SOURCE must hold text"), ("x", "text must hold at least 2 tokens")]
)
def test_too_little_text(run: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        api.load(run).evaluate(data=str(tmp_path / "short.txt"))
    with pytest.raises(UserError, match="must name a file, a folder or a glob that exists"):
        api.load(run).evaluate(data=str(tmp_path / "nowhere.txt"))


def test_controls_do_not_need_the_sources_any_more(tmp_path: Path, held_out: Path) -> None:
    texts = write_texts(tmp_path / "texts", 4)
    train_tiny(texts, tmp_path / "run", settings={"training": {"steps": 1}})
    model = api.load(tmp_path / "run")
    before = model.evaluate(data=str(held_out))
    shutil.rmtree(texts)
    assert model.evaluate(data=str(held_out)) == before


def test_a_run_that_was_stopped_has_its_controls_fitted_anew(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    header = read_json(copy / "run.json")
    del header["results"]
    (copy / "run.json").write_text(json.dumps({**header, "status": "training"}))
    assert dict(api.load(copy).evaluate(), run="") == dict(api.load(run).evaluate(), run="")


def test_damaged_validation_text_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    ids = next(path for path in (copy / "data" / "validation").iterdir() if path.name.startswith("ids"))
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(StateError, match=r"ids.* must have \d+ bytes; got \d+"):
        api.load(copy).evaluate()

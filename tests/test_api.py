"""The verbs in Python, and that the command line says the same."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rhapsode
from rhapsode import api
from rhapsode.cli import run as cli
from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import RunFolder, read_json
from tiny_runs import FLAGS, TIMES, fingerprint, make_words, tiny_settings, train_tiny


@pytest.fixture(scope="module")
def result(source: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Record:
    return rhapsode.train(
        str(source), out=tmp_path_factory.mktemp("run") / "run", steps=10, params="60k", settings=tiny_settings()
    )


@pytest.fixture(scope="module")
def model(result: api.Record) -> api.Model:
    return rhapsode.load(result)


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command with --json and return what it printed last."""
    capsys.readouterr()
    assert cli([*words, "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return value


def without_times(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in {*TIMES, "run"} and "seconds" not in k}


def test_what_train_returns_can_be_loaded(result: api.Record, model: api.Model) -> None:
    assert rhapsode.load(result.run).header == model.header == rhapsode.load(Path(result.run)).header
    assert model.decoder.num_parameters() == result.parameters
    assert model.device == torch.device("cpu")
    assert not any(parameter.requires_grad for parameter in model.decoder.parameters())


def test_a_result_is_a_dictionary_with_attributes(result: api.Record) -> None:
    assert result.steps == result["steps"] == 10
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(AttributeError, match=r"^this result has run, parameters, .*; got 'stepz'\.$"):
        _ = result.stepz


def test_train_says_what_its_command_says(
    source: Path, result: api.Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = json_of(capsys, "train", str(source), "--out", str(tmp_path / "run"), "--steps", "10", *FLAGS)
    assert without_times(printed) == without_times(result)
    assert printed.keys() == result.keys()
    assert fingerprint(tmp_path / "run") == fingerprint(Path(result.run))


def test_generate_says_what_its_command_says(model: api.Model, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(model.folder.path)
    for settings in ({}, {"temperature": 0.0}, {"seed": 3, "max_new_tokens": 7, "stop": ("e",)}):
        done = model.generate("ab", **settings)
        words = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", v[0] if k == "stop" else str(v))]
        printed = json_of(capsys, "generate", run, "--prompt", "ab", *words)
        assert printed["text"] == done.text
        assert (printed["tokens"], printed["truncated"], printed["seed"]) == (done.tokens, done.truncated, done.seed)


def test_a_stream_is_the_generation_in_pieces(model: api.Model) -> None:
    whole = model.generate("abc", max_new_tokens=40, seed=5)
    stream = model.stream("abc", max_new_tokens=40, seed=5)
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert sum((chunk.ids for chunk in chunks), ()) == whole.ids
    assert len(chunks) > 4
    assert stream.generation is not None
    assert (stream.generation.text, stream.generation.ids) == (whole.text, whole.ids)


def test_settings_of_generation_are_checked(model: api.Model) -> None:
    with pytest.raises(UserError, match=r"^generation\.top_p must be less than or equal to 1; got 2\.0\.$"):
        model.generate("a", top_p=2.0)
    with pytest.raises(UserError, match=r"^the setting generation\.temprature must be one of .* Did you mean"):
        model.stream("a", temprature=1.0)
    with pytest.raises(UserError, match=r"^the prompt must fit the model's context of 16 tokens; got 31 tokens"):
        model.generate("x" * 30)


def test_scores_by_hand(model: api.Model) -> None:
    text = "é " + make_words(5)
    scored = model.score(text)
    ids = np.concatenate([[model.tokenizer.bos_id], model.tokenizer.encode(text)]).astype(np.int64)
    assert len(scored.log_probs) == len(scored.tokens) == len(ids) - 1 == len(text.encode())
    # every byte is a token here; the two of é are not characters by themselves.
    assert scored.tokens[:3] == ["\ufffd", "\ufffd", " "]
    with torch.inference_mode():
        head = torch.log_softmax(model.decoder(torch.from_numpy(ids[None, :16]))[0][0].double(), -1)
    plain = [float(head[i, ids[i + 1]]) for i in range(16)]
    np.testing.assert_allclose(scored.log_probs[:16], plain, rtol=1e-5, atol=1e-5)
    bits = -sum(scored.log_probs) / math.log(2) / len(text.encode())
    assert scored.bits_per_byte == pytest.approx(bits)
    assert scored.nats_per_token == pytest.approx(-sum(scored.log_probs) / len(scored.tokens))


def test_scores_of_almost_nothing(model: api.Model) -> None:
    assert model.score("") == {"log_probs": [], "tokens": [], "bits_per_byte": None, "nats_per_token": None}
    one = model.score("a")
    assert one.tokens == ["a"]
    assert one.nats_per_token == -one.log_probs[0]
    with pytest.raises(UserError, match=r"^text must not hold a lone surrogate; got U\+D800 at character 1"):
        model.score("a\ud800")


def test_evaluate_and_info_say_what_their_commands_say(
    model: api.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(model.folder.path)
    (tmp_path / "text.txt").write_text(make_words(60, seed=7))
    assert json_of(capsys, "eval", run) == model.evaluate()
    for stride in (None, 3):
        words = [] if stride is None else ["--stride", str(stride)]
        printed = json_of(capsys, "eval", run, "--data", str(tmp_path / "text.txt"), *words)
        assert printed == model.evaluate(data=str(tmp_path / "text.txt"), stride=stride)
    assert json_of(capsys, "info", run) == json.loads(json.dumps(model.info()))


def test_info(model: api.Model, result: api.Record) -> None:
    info = model.info()
    assert (info.run, info.recipe, info.status, info.seed) == (result.run, "rhapsode", "done", 0)
    assert info.parameters == result.parameters
    assert info.tokenizer == {"kind": "bytes", "vocab_size": 259}
    assert info.results == read_json(RunFolder(result.run).run)["results"] == result


def test_plan_is_what_check_prints(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = api.plan(str(source), params="60k", settings=tiny_settings(steps=5))
    printed = json_of(capsys, "check", str(source), "--steps", "5", *FLAGS)
    assert printed["parameters"] == plan.parameters
    assert printed["model"] == json.loads(plan.model.model_dump_json())
    assert (printed["expected_steps"], printed["expected_tokens"]) == (5, 320)


def test_only_many_documents_begin_with_their_mark(source: Path, tmp_path: Path, model: api.Model) -> None:
    assert model.generate("ab").prompt_tokens == 3
    train_tiny(source / "0.txt", tmp_path / "one", settings={"training": {"steps": 1}})
    assert api.load(tmp_path / "one").generate("ab").prompt_tokens == 2


def test_the_budget_of_train_is_a_setting(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^training must have one budget; got minutes and steps\."):
        rhapsode.train(str(source), out=tmp_path / "run", steps=1, minutes=1)
    with pytest.raises(UserError, match=r"^--params must be a positive count such as 300k, 5M or 1\.5B; got many\."):
        rhapsode.train(str(source), out=tmp_path / "run", params="many")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_loaded(source: Path, tmp_path: Path, result: api.Record) -> None:
    with pytest.raises(UserError, match=r"^RUN must name the folder of a run; got .*nowhere"):
        rhapsode.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^training\.device must name a device of this machine; got 'abacus'"):
        rhapsode.load(result, device="abacus")
    with pytest.raises(UserError, match=r"^--suite must be one of .*perplexity.*; got 'nothing'"):
        rhapsode.load(result).evaluate("nothing")
    train_tiny(source, tmp_path / "run", settings={"training": {"steps": 1}})
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(StateError, match=r"model\.safetensors must match the checksum in run\.json; it was damaged"):
        rhapsode.load(tmp_path / "run")


def test_the_package_hands_out_only_its_verbs() -> None:
    assert rhapsode.__all__ == ["FieldClassifier", "FieldRegressor", "load", "train"]
    with pytest.raises(AttributeError, match=r"^module 'rhapsode' has no attribute 'forget_all'$"):
        _ = rhapsode.forget_all

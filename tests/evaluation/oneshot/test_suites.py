"""The suites of the command line, on a run that is seconds old."""

import json
from pathlib import Path

import pytest

from rhapsode import api
from rhapsode.cli import run as run_cli
from rhapsode.errors import UserError
from rhapsode.evaluation.oneshot import suites
from rhapsode.evaluation.oneshot.run_encoder import RunEncoder


def test_the_replica_prints_rows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", str(run), "--suite", "oneshot", "--preset", "baseline3,rhapsode", "--quick", "--json"]
    assert run_cli(arguments) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["suite"], result["seeds"], result["quick"]) == ("oneshot", [0, 1], True)
    rows = {row["preset"]: row for row in result["rows"]}
    assert list(rows) == ["baseline3", "rhapsode", "bag_of_words", "majority"]
    assert rows["rhapsode"]["one_shot"]["value"] == 1.0
    assert "rhapsode: " in err


def test_the_replica_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["eval", str(run), "--suite", "oneshot", "--preset", "majority", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "one_shot" in out
    assert "majority" in out


def test_quick_makes_the_swarm_small(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def note(presets: object, *rest: object, **settings: object) -> list[object]:
        asked.update(presets)  # type: ignore[call-overload]
        return []

    monkeypatch.setattr(suites, "run_oneshot", note)
    api.load(run).evaluate("oneshot", quick=True)
    assert (asked["current"].swarm.iterations, asked["current"].training.steps) == (2, 20)
    api.load(run).evaluate("oneshot")
    assert (asked["current"].swarm.iterations, asked["current"].training.steps) == (10, 50)


def test_the_honest_task_prints_its_tables(run: Path, dictionary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", str(run), "--suite", "oneshot-wordnet", "--wordnet", str(dictionary), "--quick", "--json"]
    assert run_cli(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"rhapsode", "run_nearest", "replay"} <= {row["method"] for row in result["rows"]}
    assert {"abstention", "retention"} <= set(result)


def test_wrong_options_are_told(run: Path, tmp_path: Path) -> None:
    model = api.load(run)
    with pytest.raises(UserError, match=r"--preset must be one of .*; got 'currant'\. Did you mean 'current'"):
        model.evaluate("oneshot", preset="currant")
    with pytest.raises(UserError, match=r"--wordnet must name the folder of WordNet's files, such as"):
        model.evaluate("oneshot-wordnet")
    with pytest.raises(UserError, match=r"--wordnet must name the folder with data\.noun"):
        model.evaluate("oneshot-wordnet", wordnet=str(tmp_path))
    with pytest.raises(UserError, match="--preset must not be given with --suite oneshot-wordnet"):
        model.evaluate("oneshot-wordnet", preset="all")


def test_a_run_encodes_a_text_alike_whatever_stands_beside_it(run: Path) -> None:
    model = api.load(run)
    encode = RunEncoder(model.decoder, model.tokenizer)
    texts = ["abc de", "", "a much longer text than the others, cut at the length of the model's window", "fé"]
    together = encode(texts)
    assert together.shape == (4, model.decoder.config.width)
    for text, vector in zip(texts, together, strict=True):
        assert encode([text])[0] == pytest.approx(vector, abs=1e-4)
    assert abs(together[0] - together[3]).max() > 1e-3

"""Runs of the recipe `hsmn`: trained, stopped, resumed, loaded elsewhere, and with streaming switched off."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rhapsode import api
from rhapsode.models.scoring import score_tokens
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from tiny_runs import fingerprint, train_tiny
from training.test_resume import train_stopped

STREAM: dict[str, Any] = {"model": {"hypervector_stream": {"chunk": 4, "num_bundles": 2}}}
TABLE: dict[str, Any] = {"model": {"embed": "table"}}


@pytest.fixture(scope="module")
def streaming(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that streams."""
    run = tmp_path_factory.mktemp("streaming") / "run"
    train_tiny(source, run, recipe="hsmn", settings=STREAM)
    return run


def test_the_recipe_streams_and_one_setting_turns_it_off(source: Path, tmp_path: Path, streaming: Path) -> None:
    model = api.load(streaming)
    assert model.recipe.model.embed == "hypervector_stream"
    assert 0.9 * 60_000 <= model.decoder.num_parameters() <= 60_000
    assert model.decoder.prefix_len == 2 * model.decoder.embedder.per_bundle
    results = train_tiny(source, tmp_path / "table", recipe="hsmn", settings=TABLE)
    off = api.load(results)
    assert off.recipe.model.embed == "table"
    assert off.decoder.prefix_len == 0
    assert off.generate("abc", max_new_tokens=30).tokens > 0


@pytest.mark.parametrize("settings", [STREAM, TABLE], ids=["stream", "table"])
def test_a_resumed_run_is_the_same_run(source: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    train_tiny(source, tmp_path / "whole", recipe="hsmn", settings=settings)
    train_stopped(source, tmp_path / "run", [4], recipe="hsmn", settings=settings)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


PROGRAM = """
import json, sys, torch
from rhapsode import api
torch.set_num_threads(1)
decoder = api.load(sys.argv[1]).decoder
ids = torch.arange(3, 259)[None]
logits, _ = decoder(ids[:, 200:216], bundles=decoder.embedder.encode(ids[:, :200]))
print(json.dumps(logits[0].tolist()))
"""


def test_a_run_gives_the_same_logits_in_a_fresh_process(streaming: Path) -> None:
    decoder = api.load(streaming).decoder
    ids = torch.arange(3, 259)[None]
    logits, _ = decoder(ids[:, 200:216], bundles=decoder.embedder.encode(ids[:, :200]))
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(streaming)], capture_output=True, text=True, check=True)
    assert torch.equal(torch.tensor(json.loads(run.stdout)), logits[0])


def test_ids_and_bundles_both_drive_a_trained_run(streaming: Path) -> None:
    model = api.load(streaming)
    prompt = "a prompt of some length, longer than the window of sixteen tokens that this model has"
    texts = {context: model.generate(prompt, context=context, temperature=0).text for context in ("ids", "bundle")}
    assert all(texts.values())
    assert model.generate(prompt, context="ids", temperature=0).text == texts["ids"]


def test_taking_the_bundles_away_changes_the_figure(streaming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = api.load(streaming)
    tokens = load_token_array(RunFolder(streaming).data / "validation")
    whole = score_tokens(model.decoder, tokens, stride=16)
    monkeypatch.setattr(type(model.decoder), "encode_past", lambda *arguments: None)
    without = score_tokens(model.decoder, tokens, stride=16)
    assert float(abs(whole - without).mean()) > 1e-5


@pytest.mark.parametrize(
    "over", [{"mode": "parallel"}, {"task": "reconstruct"}, {"mode": "parallel", "task": "reconstruct"}]
)
def test_the_other_modes_and_tasks_train(source: Path, tmp_path: Path, over: dict[str, str]) -> None:
    settings = {"model": {"hypervector_stream": {**STREAM["model"]["hypervector_stream"], **over}}}
    assert train_tiny(source, tmp_path / "run", recipe="hsmn", settings=settings).steps == 10

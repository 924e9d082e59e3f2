"""rhapsode train, check and info: what they print, and where."""

import json
import math
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from rhapsode.cli.progress import TrainingProgress
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import latest_checkpoint
from rhapsode.training.loop import Report
from tiny_runs import FLAGS, fingerprint

from .conftest import Command

PROMISED = {
    "run",
    "parameters",
    "vocab_size",
    "val_bits_per_byte",
    "unigram_bits_per_byte",
    "kneser_ney_bits_per_byte",
    "tokens",
    "tokens_per_s",
    "seconds",
}


def test_json_is_the_last_thing_on_standard_output(command: Command, source: Path, out: Path) -> None:
    done = command("train", source, "--out", out, "--steps", 10, *FLAGS, "--json")
    assert done.code == 0
    (line,) = done.out.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert result.keys() >= PROMISED
    assert result["run"] == str(out)
    assert (result["steps"], result["tokens"], result["vocab_size"]) == (10, 640, 259)
    assert all(math.isfinite(value) for value in result.values() if isinstance(value, float))
    # everything else is progress, whole sentences first, then the evaluations.
    lines = done.err.splitlines()
    assert lines[0] == "read 0.01 MB of training text"
    assert lines[1] == "bytes tokenizer: 259 ids, 1.00 bytes a token"
    assert re.fullmatch(r"[0-9,]+ parameters: vocabulary 259, width \d+, \d+ layers, \d+ heads, context 16.*", lines[2])
    assert re.fullmatch(r"controls: unigram \d\.\d{3}, Kneser-Ney \d\.\d{3} bits per byte \(\d+\.\d s\)", lines[3])
    assert lines[4] == "training until 10 steps; switched off"
    evaluation = r"step \d+  \d\.\d{3} bits per byte  loss \d\.\d{3}  [0-9,]+ tokens/s  (\d+:\d\d|\?) left"
    assert len(lines) == 13
    assert all(re.fullmatch(evaluation, line) for line in lines[5:]), lines[5:]
    assert lines[-1].startswith("step 10 ")
    assert lines[-1].endswith(" 0:00 left")


def test_for_people(command: Command, source: Path, out: Path) -> None:
    done = command("train", source, "--out", out, "--steps", 2, *FLAGS)
    assert done.code == 0
    figures, controls, costs, following = done.out.splitlines()
    pattern = r"\d\.\d{3} bits per byte on validation text \(95 % interval \d\.\d{3} \.\. \d\.\d{3}\)"
    assert re.fullmatch(pattern, figures)
    assert re.fullmatch(r"beside it: Kneser-Ney \d\.\d{3}, unigram \d\.\d{3}", controls)
    assert re.fullmatch(r"[0-9,]+ parameters, 128 tokens in \d+ s \([0-9,]+ tokens/s\)", costs)
    assert following == f'next: rhapsode generate {out} --prompt "..."'


@pytest.mark.parametrize("task", ["continue", "reconstruct"])
def test_a_figure_of_text_that_was_seen_says_so(command: Command, source: Path, out: Path, task: str) -> None:
    stream = [f"model.hypervector_stream.{setting}" for setting in ("chunk=4", "num_bundles=2", f"task={task}")]
    flags = ["--recipe", "hsmn", "--steps", 1, *FLAGS, *(f"--set={setting}" for setting in stream)]
    done = command("train", source, "--out", out, *flags)
    assert done.code == 0, done.err
    figures, controls, *_ = done.out.splitlines()
    evaluated = command("eval", out).out.splitlines()
    assert ["task", task] in [line.split() for line in evaluated]
    seen = "bits_per_byte is of text that the model has seen as bundles; Kneser-Ney and unigram have not seen it."
    if task == "reconstruct":
        assert " bits per byte of validation text that the model has seen as bundles (95 % interval " in figures
        assert controls.startswith("no comparison, without seeing it: Kneser-Ney ")
        assert evaluated[-1] == seen
    else:
        assert " bits per byte on validation text (95 % interval " in figures
        assert controls.startswith("beside it: Kneser-Ney ")
        assert seen not in evaluated
    assert json.loads(command("eval", out, "--json").out)["task"] == task


def test_flags_are_settings(command: Command, source: Path, tmp_path: Path) -> None:
    flags = ["--steps", 3, "--learning-rate", 0.01, "--weight-decay", 0.2, "--warmup-steps", 2, "--grad-clip", 0.7]
    flags += ["--eval-every", 2, "--save-every", 1, "--patience", 9, "--seed", 4, "--gradient-accumulation-steps", 2]
    flags += ["--val-split", 0.2, "--split-seed", 3, "--device", "cpu"]
    assert command("train", source, "--out", tmp_path / "flags", *FLAGS, *flags).code == 0
    names = {
        "training": "steps learning_rate weight_decay warmup_steps grad_clip eval_every save_every patience seed "
        "gradient_accumulation_steps device",
        "data": "val_split split_seed",
    }
    values = dict(zip([str(word) for word in flags[::2]], flags[1::2], strict=True))
    settings = [
        f"--set={section}.{name}={values['--' + name.replace('_', '-')]}"
        for section, listed in names.items()
        for name in listed.split()
    ]
    assert command("train", source, "--out", tmp_path / "settings", *FLAGS, *settings).code == 0
    assert fingerprint(tmp_path / "flags") == fingerprint(tmp_path / "settings")
    recipes = [(tmp_path / name / "recipe.toml").read_text() for name in ("flags", "settings")]
    assert recipes[0] == recipes[1]
    # what a flag says, --set overrules.
    done = command(
        "train", source, "--out", tmp_path / "both", *FLAGS, "--steps", 9, "--set", "training.steps=1", "--json"
    )
    assert json.loads(done.out)["steps"] == 1


def test_a_recipe_that_was_saved_trains_again(command: Command, source: Path, finished: Path, out: Path) -> None:
    assert command("train", source, "--out", out, "--recipe", finished / "recipe.toml").code == 0
    assert fingerprint(out)["weights"] == fingerprint(finished)["weights"]


@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_check_prints_what_training_builds(command: Command, source: Path, out: Path, recipe: str) -> None:
    before = sorted(source.iterdir())
    flags = ["--recipe", recipe, "--params", "80k", "--tokenizer", "bytes", "--seq-len", "32", "--steps", "1"]
    checked = json.loads(command("check", source, *flags, "--json").out)
    trained = json.loads(command("train", source, "--out", out, *flags, "--json").out)
    assert checked["parameters"] == trained["parameters"]
    for name in ("vocab_size", "width", "num_layers", "num_heads", "seq_len"):
        assert checked[name] == checked["model"][name]
    assert (checked["expected_steps"], checked["expected_tokens"]) == (trained["steps"], trained["tokens"])
    assert checked["num_buckets"] == checked["model"]["hashed_ngrams"]["num_buckets"]
    # nothing was written by the check.
    assert sorted(source.iterdir()) == before


def test_check_for_people(command: Command, source: Path) -> None:
    done = command("check", source, "--params", "80k", "--tokenizer", "bytes", "--epochs", 2)
    assert done.code == 0
    table = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert table["recipe"] == "rhapsode"
    assert table["vocab_size"] == "259"
    assert 72_000 <= int(table["parameters"].replace(",", "")) <= 80_000


@pytest.mark.filterwarnings("default")
def test_bundles_above_their_capacity_are_warned_of_in_one_line(command: Command, source: Path, out: Path) -> None:
    sizes = ["--set", "model.width=32", "--set", "model.hypervector_stream.hd_dim=128", "--seq-len", 16]
    flags = [source, "--recipe", "hsmn", "--params", "80k", "--tokenizer", "bytes", "--steps", 1, *sizes]
    for line in (["check", *flags], ["train", *flags, "--out", out]):
        done = command(*line)
        assert done.code == 0
        assert [row for row in done.err.splitlines() if "chunk" in row] == [
            "warning: model.hypervector_stream.chunk should be at most hd_dim / 40 = 3 tokens; got 16: "
            "expect 21% to 39% of the latest tokens to be read back."
        ]
    assert json.loads(command("check", *flags, "--json").out)["hd_dim"] == 128


def test_info(command: Command, finished: Path) -> None:
    info = json.loads(command("info", finished, "--json").out)
    assert info["status"] == "done"
    done = command("info", finished)
    assert done.code == 0
    assert done.err == ""
    assert f"parameters  {info['parameters']:,}" in done.out
    assert re.search(r"interval +\d\.\d{4} \.\. \d\.\d{4}", done.out)


def test_ctrl_c_keeps_what_was_done(command: Command, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = TrainingProgress._report

    def press(self: TrainingProgress, line: Report) -> None:
        report(self, line)
        if line.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "_report", press)
    done = command("train", source, "--out", out, "--steps", 10, *FLAGS)
    assert (done.code, done.out) == (130, "")
    hint, last = done.err.splitlines()[-2:]
    assert (hint, last) == (f"stopped. Go on with: rhapsode train --resume --out {out}", "rhapsode: interrupted.")
    monkeypatch.undo()
    checkpoint = latest_checkpoint(RunFolder(out))
    assert checkpoint is not None
    assert checkpoint.stem == "step-00000004"
    # what was printed is what works.
    done = command(*hint.partition("rhapsode ")[2].split(), "--json")
    assert json.loads(done.out)["steps"] == 10


def test_resume_on_a_run_that_is_done_says_the_same(command: Command, finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "run")
    before = fingerprint(copy)
    assert command("train", "--resume", "--out", copy).code == 0
    assert fingerprint(copy) == before

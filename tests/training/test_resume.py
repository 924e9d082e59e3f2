"""A training that was stopped and resumed is, bit for bit, the training that was not."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rhapsode import api
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import latest_checkpoint, load_checkpoint
from rhapsode.training.loop import Report
from rhapsode.training.run import Observer
from tiny_runs import FLAGS, fingerprint, read_metrics, train_tiny

# three ways to say ten steps: 64 tokens each, of a text with 8 thousand.
BUDGETS = {"steps": 10, "tokens": 640, "epochs": 0.082}


def stop_at(*steps: int) -> Observer:
    """Press Ctrl-C while one of these steps is taken."""

    def report(line: Report) -> None:
        if line.step in steps:
            signal.raise_signal(signal.SIGINT)

    return Observer(report=report)


def train_stopped(source: Path, out: Path, stops: list[int], **request: Any) -> None:
    """Train, and resume after every stop until the end."""
    for number, step in enumerate(stops):
        with pytest.raises(KeyboardInterrupt):
            train_tiny(source, out, resume=number > 0, observer=stop_at(step), **request)
        assert steps_saved(out) == step
    train_tiny(source, out, resume=True, **request)


@pytest.fixture(scope="module")
def wholes(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What ten steps without a stop come to, for each recipe."""
    folder = tmp_path_factory.mktemp("whole")
    for recipe in ("gpt", "rhapsode"):
        assert train_tiny(source, folder / recipe, recipe=recipe).steps == 10
    return {recipe: fingerprint(folder / recipe) for recipe in ("gpt", "rhapsode")}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_a_resumed_run_is_the_same_run(
    source: Path, tmp_path: Path, wholes: dict[str, dict[str, Any]], recipe: str, budget: str
) -> None:
    stops = [3, 4, 8] if budget == "steps" else [5]
    train_stopped(source, tmp_path / "run", stops, recipe=recipe, settings={"training": {budget: BUDGETS[budget]}})
    assert fingerprint(tmp_path / "run") == wholes[recipe]


@pytest.mark.parametrize(
    "training",
    [
        {"precision": "bfloat16"},
        {
            "gradient_accumulation_steps": 3,
            "batch_size": 2,
            "grad_clip": 0.5,
            "eval_every": 4,
            "isolate_documents": True,
        },
        {"optimizer": "adamw", "weight_decay": 0.1, "warmup_steps": 3, "isolate_documents": True},
    ],
    ids=lambda training: next(iter(training)),
)
def test_every_setting_resumes_exactly(source: Path, tmp_path: Path, training: dict[str, Any]) -> None:
    request = {"settings": {"training": training}}
    train_tiny(source, tmp_path / "whole", **request)
    train_stopped(source, tmp_path / "stopped", [5], **request)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_the_scale_of_the_loss_is_resumed(source: Path, tmp_path: Path) -> None:
    # at this rate a gradient overflows on the way, and the scale is halved.
    request = {"settings": {"training": {"precision": "float16", "learning_rate": 3.0}}}
    train_tiny(source, tmp_path / "whole", **request)
    train_stopped(source, tmp_path / "stopped", [9], **request)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")
    checkpoint = latest_checkpoint(RunFolder(tmp_path / "whole"))
    assert checkpoint is not None
    assert load_checkpoint(checkpoint)[0]["scaler.scale"] < 65536


def test_a_stop_after_the_last_step_leaves_the_last_evaluation_to_do(source: Path, tmp_path: Path) -> None:
    # no evaluation falls on a step: without the last one there would be no weights at all.
    request = {"settings": {"training": {"eval_every": 100}}}
    train_tiny(source, tmp_path / "whole", **request)
    train_stopped(source, tmp_path / "stopped", [10], **request)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_patience_that_ran_out_stays_out(source: Path, tmp_path: Path) -> None:
    # at this rate the loss soon rises.
    request = {"settings": {"training": {"learning_rate": 3.0, "eval_every": 1, "patience": 2, "steps": 40}}}
    whole = train_tiny(source, tmp_path / "whole", **request)
    assert whole.ended == "patience"
    assert whole.steps < 40
    train_stopped(source, tmp_path / "stopped", [whole.steps - 1], **request)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")
    # a stop in the moment it ran out, and a run that is done, change nothing either.
    train_stopped(source, tmp_path / "late", [whole.steps], **request)
    train_tiny(source, tmp_path / "late", resume=True, **request)
    assert fingerprint(tmp_path / "late") == fingerprint(tmp_path / "whole")


def test_what_is_not_given_is_as_it_was(source: Path, tmp_path: Path, wholes: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_tiny(source, tmp_path / "run", recipe="gpt", observer=stop_at(5))
    api.train([], out=tmp_path / "run", resume=True)
    assert fingerprint(tmp_path / "run") == wholes["gpt"]


def test_a_resume_of_nothing_begins(source: Path, tmp_path: Path, wholes: dict[str, dict[str, Any]]) -> None:
    said: list[str] = []
    train_tiny(source, tmp_path / "run", resume=True, observer=Observer(say=said.append))
    assert said[0] == f"{tmp_path / 'run'} has no run yet: starting one."
    assert fingerprint(tmp_path / "run") == wholes["rhapsode"]


def start(source: Path, out: Path, *flags: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Train in a process of its own, without the shape checker."""
    command = [sys.executable, "-m", "rhapsode", "train", str(source), "--out", str(out), *defaults(flags), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_lines(process: "subprocess.Popen[str]", run: Path, count: int) -> None:
    """Wait until metrics.jsonl has `count` lines, or the training has ended."""
    metrics = run / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < count):
        time.sleep(0.005)


def test_ctrl_c_in_a_process_of_its_own(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path / "stopped", "--steps", "3000")
    wait_for_lines(process, tmp_path / "stopped", 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    *_, hint, last = stderr.splitlines()
    assert hint == f"stopped. Go on with: rhapsode train --resume --out {tmp_path / 'stopped'}"
    assert last == "rhapsode: interrupted."
    assert len(read_metrics(tmp_path / "stopped")) == steps_saved(tmp_path / "stopped") >= 3


@pytest.mark.slow
def test_kill_at_any_moment(source: Path, tmp_path: Path) -> None:
    """Twenty kills, from the first import to the last figure: no checkpoint is lost, and the end is the same."""
    flags = ["--steps", "300", "--save-every", "7", "--eval-every", "20"]
    finish(start(source, tmp_path / "whole", *flags))
    rng = random.Random(0)
    run, saved = tmp_path / "run", 0
    for number in range(20):
        process = start(source, run, *flags, "--resume")
        # a quarter while it gets ready, the others between steps, evaluations and writes.
        if number % 4:
            wait_for_lines(process, run, steps_saved(run) + rng.randrange(1, 40))
        time.sleep(rng.uniform(0, 0.05 if number % 4 else 5))
        process.kill()
        process.communicate()
        assert steps_saved(run) >= saved
        saved = steps_saved(run)
        if saved == 300:
            # it came to its end: another run is killed from here on.
            finish(start(source, run, *flags, "--resume"))
            assert fingerprint(run) == fingerprint(tmp_path / "whole")
            shutil.rmtree(run)
            saved = 0
    finish(start(source, run, *flags, "--resume"))
    assert fingerprint(run) == fingerprint(tmp_path / "whole")


def defaults(flags: tuple[str, ...]) -> list[str]:
    """Return the flags of a tiny run, without the settings that `flags` set themselves."""
    names = {flag.partition("=")[0] for flag in flags if "=" in flag}
    pairs = zip(FLAGS[::2], FLAGS[1::2], strict=True)
    return [word for option, value in pairs if value.partition("=")[0] not in names for word in (option, value)]


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a training to succeed; returns its standard error."""
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stderr


def steps_saved(run: Path) -> int:
    """Return the step of the last checkpoint, 0 without one."""
    checkpoint = latest_checkpoint(RunFolder(run))
    return 0 if checkpoint is None else int(checkpoint.stem.removeprefix("step-"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_compiled_training_resumes_exactly(source: Path, tmp_path: Path, recipe: str) -> None:
    """Compiled code on two threads: two runs are the same, and so is one that was stopped."""
    flags = ["--recipe", recipe, "--steps", "400", "--set", "training.compile=on", "--set", "training.threads=2"]
    # the second run takes the first one's code from the cache, as a resume does.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    for name in ("one", "two"):
        assert "switched on" in finish(start(source, tmp_path / name, *flags, environment=environment))
    assert fingerprint(tmp_path / "two") == fingerprint(tmp_path / "one")
    process = start(source, tmp_path / "stopped", *flags, environment=environment)
    wait_for_lines(process, tmp_path / "stopped", 50)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert 50 <= steps_saved(tmp_path / "stopped") < 400
    finish(start(source, tmp_path / "stopped", *flags, "--resume", environment=environment))
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "one")

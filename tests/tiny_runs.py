"""Trainings of a second, for the tests of everything that needs a run."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from rhapsode import api
from rhapsode.config import merge
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import latest_checkpoint

SETTINGS: dict[str, Any] = {
    "params": 60_000,
    "tokenizer": {"kind": "bytes"},
    "model": {"seq_len": 16},
    "training": {"batch_size": 4, "threads": 1, "compile": "off", "precision": "float32"},
}
# the same on the command line.
FLAGS = ["--params", "60k", "--tokenizer", "bytes", "--seq-len", "16", "--batch-size", "4"]
FLAGS += [
    word
    for setting in ("training.threads=1", "training.compile=off", "training.precision=float32")
    for word in ("--set", setting)
]
# what differs between two runs of the same training.
TIMES = {"elapsed_s", "tokens_per_s"}


def make_words(count: int, seed: int = 0) -> str:
    """Random words from a small vocabulary, so that there is something to learn."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijé", k=rng.randrange(2, 7))) for _ in range(60)]
    return " ".join(rng.choices(vocabulary, k=count)) + "\n"


def write_texts(folder: Path, num_documents: int = 8, words: int = 250) -> Path:
    """Write random documents into a new folder."""
    folder.mkdir(parents=True)
    for i in range(num_documents):
        (folder / f"{i}.txt").write_text(make_words(words, seed=i), encoding="utf-8")
    return folder


def tiny_settings(**training: Any) -> dict[str, Any]:
    """Return the settings of a tiny training, with `training` on top."""
    return merge(SETTINGS, {"training": training})


def train_tiny(source: Path, out: Path, *, settings: dict[str, Any] | None = None, **others: Any) -> api.Record:
    """Train for ten steps, unless `settings` say otherwise."""
    chosen = merge(SETTINGS, settings or {})
    if not {"minutes", "tokens", "steps", "epochs"} & set(chosen["training"]):
        chosen = merge(chosen, {"training": {"steps": 10}})
    return api.train(str(source), out=out, settings=chosen, **others)


def fingerprint(run: Path) -> dict[str, Any]:
    """Return all that must be the same in two runs of the same training.

    Hashes of the best weights and of the last checkpoint's tensors (weights and optimizer state), the figures of
    every step, and the results without times.
    """
    folder = RunFolder(run)
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    header = json.loads(folder.run.read_text())
    results = header["results"]
    return {
        "status": header["status"],
        "weights": sha256(folder.model),
        "checkpoint": (checkpoint.name, sha256(checkpoint.with_suffix(".safetensors"))),
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(run)],
        "results": {k: v for k, v in results.items() if k not in {*TIMES, "run"} and "seconds" not in k},
    }


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read every line of metrics.jsonl; each must be whole."""
    return [json.loads(line) for line in RunFolder(run).metrics.read_text().splitlines()]


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

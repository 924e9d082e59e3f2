"""Kill a process that works on a store, at random moments, and look at what is left.

    python benchmarks/_kill_store.py --kills 20 [--folder FOLDER] [--seed 0]

A worker writes, forgets, searches, rebuilds and compacts, and notes each step in a log before it begins and after it is
acknowledged. It is killed with SIGKILL; then the store is opened and must hold every acknowledged row, no forgotten
one, nothing of them in any file, and nothing that `verify` finds. The next worker goes on with the same store.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rhapsode.memory.config import IndexConfig, StoreConfig
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore

WIDTH = 16
# small enough that inverted files are built, saved and erased from all the time, and the log is moved often.
CONFIG = StoreConfig(checkpoint_pages=50, index=IndexConfig(flat_limit=120, lists_factor=0.5))
WEIGHTS = {"write": 60, "forget": 20, "search": 12, "rebuild": 4, "compact": 4}
MAX_ROWS = 400


def main() -> None:
    """Run the worker, or the killer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.folder, arguments.seed)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        print(json.dumps(kill_repeatedly(Path(name), arguments.kills, arguments.seed)))


def work(folder: Path, seed: int) -> None:
    """Change the store without end. Every text has a word of its own."""
    rng = random.Random(seed)
    with open(folder / "log", "a", encoding="utf-8") as log, SQLiteStore.open(folder / "store", config=CONFIG) as store:
        note(log, {"ready": True})
        for step in range(1_000_000):
            rows = list(store.rows())
            op = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if len(rows) > MAX_ROWS:
                op = "forget"
            words: list[str] = []
            if op == "write":
                # a letter at the end: a digit could be the first byte of what the file holds next to a shorter word.
                words = [f"zq{seed}x{step}x{i}e" for i in range(rng.choice([1, 1, 3, 40]))]
            elif op == "forget" and rows:
                chosen = rng.sample(rows, min(len(rows), rng.choice([1, 2, 30])))
                words = [row.text.split()[0] for row in chosen]
            note(log, {"begin": op, "words": words})
            result = True
            if op == "write":
                keys = [f"key {rng.randrange(200)}" if rng.random() < 0.3 else None for _ in words]
                items = [
                    Item(f"{word} and some words of number {step}", key) for word, key in zip(words, keys, strict=True)
                ]
                store.write(items, np.random.default_rng(step).normal(size=(len(items), WIDTH)).astype(np.float32))
            elif op == "forget" and rows:
                result = store.forget([row.id for row in chosen]).erased
            elif op == "search":
                store.search("some words", vector=np.random.default_rng(step).normal(size=WIDTH).astype(np.float32))
            elif op == "rebuild":
                store.rebuild()
            elif op == "compact":
                store.compact()
            note(log, {"end": op, "result": result})


def note(log: Any, entry: dict[str, Any]) -> None:
    """Append to the log; what is written survives a kill, though not a power cut."""
    log.write(json.dumps(entry) + "\n")
    log.flush()


def kill_repeatedly(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Return a report; `failures` is empty if every store was whole."""
    rng = random.Random(seed)
    failures: list[str] = []
    during: Counter[str] = Counter()
    acknowledged = 0
    for number in range(kills):
        log = folder / "log"
        log.write_text("")
        before = {row.text.split()[0] for row in open_rows(folder)}
        command = [sys.executable, __file__, "--work", "--folder", str(folder), "--seed", str(seed * 10_000 + number)]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        while not log.read_text() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            failures.append(f"kill {number}: the worker ended by itself with {process.returncode}")
            break
        entries = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        during[unfinished(entries)] += 1
        acknowledged += sum(len(e["words"]) for e in entries[:-1] if e.get("begin") == "write")
        failures += [f"kill {number}: {problem}" for problem in check(folder, before, entries)]
    return {"kills": kills, "during": dict(during), "acknowledged_writes": acknowledged, "failures": failures}


def open_rows(folder: Path) -> list[Any]:
    with SQLiteStore.open(folder / "store", config=CONFIG) as store:
        return list(store.rows())


def unfinished(entries: list[dict[str, Any]]) -> str:
    """Return what the worker was doing."""
    return str(entries[-1]["begin"]) if entries and "begin" in entries[-1] else "between steps"


def check(folder: Path, before: set[str], entries: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the store, given what was acknowledged."""
    must, may, gone = set(before), set(), set()
    for entry, following in zip(entries, [*entries[1:], {}], strict=True):
        if entry.get("begin") not in ("write", "forget"):
            continue
        words, done = set(entry["words"]), "end" in following
        if entry["begin"] == "write":
            must |= words if done else set()
            may |= set() if done else words
        else:
            must -= words
            gone |= words if done else set()
            may |= set() if done else words
    problems = []
    with SQLiteStore.open(folder / "store", config=CONFIG) as store:
        present = {row.text.split()[0] for row in store.rows()}
        problems += [f"verify: {problem}" for problem in store.verify()]
    problems += [f"lost {len(must - present)} acknowledged rows"] if must - present else []
    problems += [f"{len(gone & present)} forgotten rows are back"] if gone & present else []
    problems += [f"{len(present - must - may)} rows from nowhere"] if present - must - may else []
    for path in (folder / "store").iterdir():
        data = path.read_bytes()
        # whole words: one may begin another.
        left = [word for word in (gone | may) - present if f"{word} ".encode() in data]
        problems += [f"{len(left)} forgotten words in {path.name}"] if left else []
    return problems


if __name__ == "__main__":
    main()

"""Processes that die or work at the same time."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from store_tools import make_facts

from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore

ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore
with SQLiteStore.open(sys.argv[1]) as store:
    for i in range(40):
        ids = store.write([Item(f"writer {sys.argv[2]} wrote number {i}", key=f"shared {i}")]).ids
        if i % 5 == 4:
            store.forget(ids)
        store.search("writer number")
print("done")
"""


def run(*command: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.write(make_facts(5))
        processes = [run("-c", WRITER, str(tmp_path), name) for name in ("a", "b")]
        while any(process.poll() is None for process in processes):
            assert len(store.search("the", k=5)) == 5
        for process in processes:
            out, errors = process.communicate()
            assert (out, errors) == ("done\n", "")
        texts = {row.text for row in store.rows()}
        wanted = {f"writer {name} wrote number {i}" for name in "ab" for i in range(40) if i % 5 != 4}
        assert texts == wanted | {fact.text for fact in make_facts(5)}
        current = [row for row in store.rows() if row.superseded_by is None]
        assert len(current) == 5 + 32
        assert store.verify() == []


@pytest.mark.slow
def test_killed_processes_leave_a_whole_store(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "_kill_store.py")
    process = run(script, "--kills", "20", "--folder", str(tmp_path), "--seed", "1")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    report = json.loads(out)
    assert report["failures"] == []
    assert report["acknowledged_writes"] > 100
    assert len(report["during"]) >= 3


def test_the_check_after_a_kill_notices_what_it_should(tmp_path: Path) -> None:
    spec = spec_from_file_location("_kill_store", ROOT / "benchmarks" / "_kill_store.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with SQLiteStore.open(tmp_path / "store", config=module.CONFIG) as store:
        store.write([Item("here and there"), Item("stray and there")])
    entries = [
        {"begin": "write", "words": ["here", "lost"]},
        {"end": "write"},
        {"begin": "forget", "words": ["here"]},
        {"end": "forget"},
        {"begin": "write", "words": ["unfinished"]},
    ]
    assert module.check(tmp_path, set(), entries) == [
        "lost 1 acknowledged rows",
        "1 forgotten rows are back",
        "2 rows from nowhere",
    ]
    (tmp_path / "store" / "left.tmp").write_text("unfinished business")
    with SQLiteStore.open(tmp_path / "store", config=module.CONFIG) as store:
        store.forget([1])
    assert "1 forgotten words in left.tmp" in module.check(tmp_path, set(), entries)

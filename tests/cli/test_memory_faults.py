"""The verbs of the memory where the world is not as it should be: damage, a full disk, folders that are only read."""

import io
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rhapsode import api
from rhapsode.errors import StateError

from .conftest import Command

FACT = "The zorblatt protocol was designed in Lisbon in 1987."
QUESTION = "Where was the zorblatt protocol designed?"
PAGE = 4096


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of its own, in a folder whose name has a space, taught nothing."""
    return Path(shutil.copytree(finished, tmp_path / "a run", ignore=shutil.ignore_patterns("checkpoints")))


def json_of(command: Command, *words: str | Path) -> dict[str, Any]:
    done = command(*words, "--json")
    assert done.code == 0, done.err
    value: dict[str, Any] = json.loads(done.out)
    return value


def teach_many(command: Command, run: Path, tmp_path: Path, count: int = 300) -> None:
    facts = tmp_path / "facts.tsv"
    facts.write_text("".join(f"key {i}\tThe bridge number{i} stands in place{i % 7}.\n" for i in range(count)))
    json_of(command, "teach", run, "--file", facts)


def test_the_command_that_is_named_for_a_damaged_database_recovers_it(
    command: Command, run: Path, tmp_path: Path
) -> None:
    teach_many(command, run, tmp_path)
    path = run / "memory" / "memory.db"
    data = bytearray(path.read_bytes())
    rng = random.Random(0)
    for page in range(3, min(200, len(data) // PAGE), 3):
        data[page * PAGE : (page + 1) * PAGE] = rng.randbytes(PAGE)
    path.write_bytes(data)
    for words in (["teach", run, FACT], ["ask", run, QUESTION], ["memory", run, "rebuild"], ["memory", run, "list"]):
        done = command(*words)
        assert done.code == 1, words
        assert len([line for line in done.err.splitlines() if line.startswith("rhapsode: ")]) == 1
    named = done.err.split("Recover what can be read with: ")[1].strip()
    assert named == f"rhapsode memory {shlex.quote(str(run))} rebuild --recover"
    result = json_of(command, *shlex.split(named)[1:])
    assert 0 < result["rows"] < 300
    assert len(result["unreadable"]) + result["rows"] == 300
    assert Path(result["damaged"]).read_bytes() == bytes(data)
    Path(result["damaged"]).unlink()
    json_of(command, "memory", run, "rebuild", "--reencode")
    assert json_of(command, "memory", run, "verify")["sound"]
    assert json_of(command, "memory", run, "list")["n"] == result["rows"]
    json_of(command, "teach", run, FACT)
    assert json_of(command, "ask", run, QUESTION)["answer"] == FACT


def test_damage_to_any_page_is_one_sentence(command: Command, run: Path, tmp_path: Path) -> None:
    teach_many(command, run, tmp_path, 150)
    path = run / "memory" / "memory.db"
    good = path.read_bytes()
    verbs: list[list[Any]] = [
        ["ask", run, "Where does number7 stand?"],
        ["teach", run, FACT],
        ["forget", run, "5", "--no-occurrences"],
        ["memory", run, "list"],
        ["memory", run, "verify"],
        ["memory", run, "rebuild"],
    ]
    for page in range(len(good) // PAGE):
        rng = random.Random(page)
        data = bytearray(good)
        data[page * PAGE : (page + 1) * PAGE] = rng.randbytes(PAGE)
        shutil.rmtree(run / "memory")
        (run / "memory").mkdir()
        path.write_bytes(data)
        # every verb meets some of the pages; all of them on each would take minutes.
        for words in rng.sample(verbs, 2):
            done = command(*words)
            said = [line for line in done.err.splitlines() if line.startswith("rhapsode: ")]
            assert done.code in {0, 1}, (page, words, done)
            assert len(said) == (done.code == 1 and words[2] != "verify"), (page, words, done)


def test_a_store_of_no_bytes_is_damaged_and_not_new(command: Command, run: Path) -> None:
    json_of(command, "teach", run, FACT)
    assert sorted(path.name for path in (run / "memory").iterdir()) == ["memory.db"]
    (run / "memory" / "memory.db").write_bytes(b"")
    for words in (["teach", run, FACT], ["ask", run, QUESTION], ["memory", run, "rebuild", "--recover"]):
        done = command(*words)
        assert done.code == 1
        assert "an empty file" in done.err
    assert (run / "memory" / "memory.db").read_bytes() == b""


def test_forgetting_needs_neither_training_text_nor_encoder(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT, "The night train leaves from platform 9.", "Tea is brewed at four.")
    shutil.rmtree(run / "data" / "training")
    (run / "encoder" / "encoder.json").write_bytes(b"{")
    result = json_of(command, "forget", run, "1")
    assert result["erased"]
    assert result["elsewhere"] is None
    assert "training" in result["elsewhere_problem"]
    assert b"zorblatt" not in (run / "memory" / "memory.db").read_bytes()
    done = command("forget", run, "2")
    assert done.code == 0
    assert "is not known: " in done.err
    for words in (
        ["stats"],
        ["list"],
        ["verify"],
        ["compact"],
        ["show", "3"],
        ["export", tmp_path / "rows"],
        ["rebuild"],
    ):
        json_of(command, "memory", run, *words)
    assert "elsewhere" not in json_of(command, "forget", run, "3", "--dry-run", "--no-occurrences")


def test_a_damaged_encoder_is_trained_anew(command: Command, run: Path) -> None:
    json_of(command, "teach", run, FACT)
    whole = (run / "encoder" / "encoder.json").read_bytes()
    for name in ("encoder.json", "encoder.safetensors"):
        (run / "encoder" / name).write_bytes(b"{")
        done = command("ask", run, QUESTION)
        assert done.code == 1
        named = done.err.split("anew with: ")[1].strip()
        assert json_of(command, *shlex.split(named)[1:])["rows"] == 1
        assert (run / "encoder" / "encoder.json").read_bytes() == whole
        assert json_of(command, "ask", run, QUESTION)["answer"] == FACT


@contextmanager
def only_read(folder: Path) -> Iterator[None]:
    """Be somebody who may read a folder and not write it; root may write everywhere, so it becomes nobody."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.parent.chmod(0o755)
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_what_writes_nothing_works_where_nothing_can_be_written(command: Command, finished: Path) -> None:
    with TemporaryDirectory(dir="/tmp") as name:
        run = Path(shutil.copytree(finished, Path(name) / "run"))
        facts = Path(name) / "facts.tsv"
        facts.write_text(f"zorblatt\t{FACT}\n")
        json_of(command, "teach", run, "--file", facts)
        command("generate", run, "--prompt", "ab", "--max-new-tokens", 2, "--memory")
        with only_read(run):
            assert json_of(command, "ask", run, QUESTION)["answer"] == FACT
            assert json_of(command, "forget", run, "1", "--dry-run")["texts"] == [FACT]
            assert json_of(command, "eval", run, "--suite", "recall", "--file", facts)["file"] == str(facts)
            done = command("generate", run, "--prompt", "ab", "--max-new-tokens", 2, "--memory")
            assert done.code == 0, done.err
            done = command("teach", run, "Something else.")
            assert done.code == 1
            assert "must be" in done.err


def test_asking_keeps_the_calibration_and_finishes_no_erasure(command: Command, run: Path) -> None:
    json_of(command, "teach", run, FACT)
    before = (run / "memory" / "memory.db").read_bytes()
    json_of(command, "ask", run, QUESTION)
    assert (run / "memory" / "calibration.json").exists()
    assert (run / "memory" / "memory.db").read_bytes() == before


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a small disk")
def test_a_full_disk(command: Command, finished: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be made here")
    try:
        run = Path(shutil.copytree(finished, disk / "run", ignore=shutil.ignore_patterns("checkpoints")))
        json_of(command, "teach", run, FACT)
        fill(disk / "rest")
        done = command("teach", run, *(f"A fact with the number {i}." for i in range(2_000)))
        assert done.code == 1
        assert "must be on a disk with free space" in done.err
        assert json_of(command, "ask", run, QUESTION)["answer"] == FACT
        assert json_of(command, "memory", run, "list")["n"] == 1
        (disk / "rest").unlink()
        assert json_of(command, "forget", run, "1")["erased"]
    finally:
        subprocess.run(["umount", "-l", disk], check=True, capture_output=True)


def test_a_memory_that_is_only_read_says_so(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with TemporaryDirectory(dir="/tmp") as name:
        copy = Path(shutil.copytree(run, Path(name) / "run"))
        with api.open_memory(copy) as memory:
            memory.teach(FACT)
        model = api.load(copy)
        with only_read(copy):
            assert model.ask(QUESTION).answer == FACT
            with pytest.raises(Exception, match="must be opened for writing"):
                model.teach("Something else.")
        model.memory.close()
        assert "what was taught is only read" in caplog.text


def test_questions_from_a_file_and_from_standard_input(
    command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_of(command, "teach", run, FACT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTION + "\n"))
    assert json_of(command, "ask", run, "-")["answer"] == FACT
    questions = tmp_path / "questions.txt"
    questions.write_text(f"{QUESTION}\n\nWhat is the capital of Elbonia?\n")
    answers = json_of(command, "ask", run, "--file", questions)["answers"]
    assert [answer["answer"] for answer in answers] == [FACT, None]
    assert command("ask", run, "--file", questions).out.count("confidence ") == 2
    questions.write_text("\n")
    for words, message in (
        ([], "QUESTION must be given, or --file"),
        (["x", "--file", questions], "and not both"),
        (["--file", questions], "--file must hold a question"),
        (["--file", tmp_path / "nowhere"], "--file must be a readable file"),
    ):
        done = command("ask", run, *words)
        assert (done.code, message in done.err) == (2, True), done.err
    questions.write_bytes(b"\xff")
    assert "--file must be UTF-8" in command("ask", run, "--file", questions).err


def test_where_a_threshold_is_from(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT)
    assert json_of(command, "ask", run, QUESTION)["threshold_from"] == "shipped"
    given = json_of(command, "ask", run, QUESTION, "--min-confidence", "0.3")
    assert (given["threshold_from"], given["calibrated"], given["threshold"]) == ("given", False, 0.3)
    out = command("ask", run, QUESTION, "--min-confidence", "0.3").out
    assert "threshold 0.30, given" in out
    assert "uncalibrated" not in out
    facts = tmp_path / "facts.tsv"
    facts.write_text("".join(f"capital of land{i}\tThe capital of land{i} is city{i}.\n" for i in range(200)))
    json_of(command, "teach", run, "--file", facts)
    assert json_of(command, "ask", run, QUESTION)["threshold_from"] == "store"


def test_a_forget_that_could_not_erase_says_what_is_done(run: Path) -> None:
    with api.open_memory(run) as memory:
        memory.teach(FACT)
        memory.store.connection.execute("PRAGMA wal_autocheckpoint = 0")
        (run / "memory" / "index-9.bin").mkdir()
        with pytest.raises(StateError, match="What was forgotten is deleted; its bytes are erased when"):
            memory.forget(1)
        (run / "memory" / "index-9.bin").rmdir()
        assert list(memory.rows()) == []

"""rhapsode teach, ask, forget and memory: what they print, what they refuse, and that nothing forgotten is left."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny_runs import train_tiny, write_texts

from .conftest import Command

FACT = "The zorblatt protocol was designed in Lisbon in 1987."
QUESTION = "Where was the zorblatt protocol designed?"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of its own, taught nothing."""
    return Path(shutil.copytree(finished, tmp_path / "taught"))


def json_of(command: Command, *words: str | Path) -> dict[str, Any]:
    done = command(*words, "--json")
    assert done.code == 0, done.err
    value: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return value


def holds(folder: Path, text: str) -> list[Path]:
    """Files below a folder that hold a text, in any letter case."""
    return [p for p in folder.rglob("*") if p.is_file() and text.lower().encode() in p.read_bytes().lower()]


def test_teach_ask_forget(command: Command, run: Path) -> None:
    taught = json_of(command, "teach", run, FACT)
    assert taught.keys() >= {"ids", "ms", "created", "superseded"}
    assert holds(run, "zorblatt")
    answer = json_of(command, "ask", run, QUESTION)
    assert answer["answer"] == FACT
    assert not answer["abstained"]
    assert answer["sources"][0].keys() >= {"id", "text", "score"}
    assert (answer["sources"][0]["id"], answer["sources"][0]["text"]) == (taught["ids"][0], FACT)
    never = json_of(command, "ask", run, "Where was the quibblex protocol designed?")
    assert never["abstained"]
    assert never["answer"] is None
    forgotten = json_of(command, "forget", run, taught["ids"][0])
    assert forgotten["erased"] is True
    assert forgotten["elsewhere"] == {"training": 0, "validation": 0, "calibration": 0}
    assert json_of(command, "ask", run, QUESTION)["abstained"]
    assert holds(run, "zorblatt") == []


def test_for_people(command: Command, run: Path) -> None:
    assert command("teach", run, FACT, "--source", "notes").out.splitlines()[0] == "1  taught"
    assert "1  known already" in command("teach", run, FACT).out
    lines = command("ask", run, QUESTION).out.splitlines()
    assert lines[0] == FACT
    assert lines[1].startswith("confidence ")
    assert lines[2].startswith("*      1  ")
    assert lines[2].endswith(f"{FACT}  [notes]")
    assert command("ask", run, "What is the capital of Elbonia?").out.splitlines()[0] == "I don't know."
    assert "1 would be erased" in command("forget", run, "--match", "ZORBLATT", "--dry-run").out
    assert command("forget", run, "--match", "zorblatt", "--yes").out.startswith("1 erased in ")
    assert command("forget", run, "--match", "zorblatt", "--yes").out.startswith("0 erased in ")


def test_a_file_of_facts(command: Command, run: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.tsv"
    facts.write_text("".join(f"capital of Land{i:02}\tThe capital of Land{i:02} is City{i:02}.\n" for i in range(40)))
    assert len(json_of(command, "teach", run, "--file", facts)["ids"]) == 40
    answer = json_of(command, "ask", run, "What is the capital of Land07?")
    assert answer["answer"] == "The capital of Land07 is City07."
    assert json_of(command, "ask", run, "What is the capital of Land77?")["abstained"]
    result = json_of(command, "eval", run, "--suite", "recall", "--file", facts)
    assert result["recall"] >= 0.95
    assert result["fabricated"] <= 0.1
    assert result.keys() >= {"coverage", "p50_ms"}


def test_a_new_text_under_a_key_takes_the_place_of_the_old(command: Command, run: Path) -> None:
    first = json_of(command, "teach", run, "The door code is 1234.", "--key", "door code")
    second = json_of(command, "teach", run, "The door code is 9876.", "--key", "door code")
    assert second["superseded"] == first["ids"]
    assert json_of(command, "ask", run, "What is the door code?")["answer"] == "The door code is 9876."
    rows = json_of(command, "memory", run, "list")["rows"]
    assert [row["superseded_by"] for row in rows] == [second["ids"][0], None]
    json_of(command, "forget", run, second["ids"][0])
    assert json_of(command, "ask", run, "What is the door code?")["answer"] == "The door code is 1234."


def test_spaces_do_not_see_each_other(command: Command, run: Path) -> None:
    json_of(command, "teach", run, FACT, "--space", "work")
    json_of(command, "teach", run, "Another thing entirely is known here.")
    assert json_of(command, "ask", run, QUESTION)["abstained"]
    assert json_of(command, "ask", run, QUESTION, "--space", "work")["answer"] == FACT


def test_looking_after_a_memory(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT, "The night train leaves from platform 9.", "--source", "demo")
    assert json_of(command, "memory", run, "stats")["rows"] == 2
    hits = json_of(command, "memory", run, "search", "night train", "--k", "1")["rows"]
    assert [hit["id"] for hit in hits] == [2]
    assert json_of(command, "memory", run, "verify")["sound"] is True
    assert json_of(command, "memory", run, "rebuild")["rows"] == 2
    assert json_of(command, "memory", run, "rebuild", "--reencode")["rows"] == 2
    out = tmp_path / "rows.jsonl"
    json_of(command, "memory", run, "export", out)
    json_of(command, "forget", run, "--source", "demo", "--yes")
    assert json_of(command, "memory", run, "list")["n"] == 0
    json_of(command, "memory", run, "import", out)
    assert json_of(command, "ask", run, QUESTION)["answer"] == FACT
    assert len(command("memory", run, "export").out.splitlines()) == 2


def test_what_was_taught_survives_a_new_training(command: Command, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 4)
    train_tiny(texts, tmp_path / "run", settings={"training": {"steps": 1}})
    json_of(command, "teach", tmp_path / "run", FACT)
    train_tiny(
        write_texts(tmp_path / "others", 3), tmp_path / "run", settings={"training": {"steps": 1}}, overwrite=True
    )
    assert json_of(command, "ask", tmp_path / "run", QUESTION)["answer"] == FACT


def test_text_in_the_training_data_is_reported(command: Command, finished: Path, source: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    sentence = " ".join((source / "0.txt").read_text().split()[:12])
    json_of(command, "teach", run, sentence)
    assert sum(json_of(command, "forget", run, 1)["elsewhere"].values()) == 1


def test_bad_input(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT)
    (tmp_path / "binary.tsv").write_bytes(b"a\tb\xff\n")
    for words, message in (
        (["teach", run], r"TEXT must be given, or --file"),
        (["teach", run, ""], "must hold more than white space"),
        (["teach", run, "   "], "must hold more than white space"),
        (["teach", run, "a\x00b"], "NUL"),
        (["teach", run, "a", "b", "--key", "c"], "--key must come with a single TEXT; got 2."),
        (["teach", run, "--file", tmp_path / "nowhere"], "nowhere"),
        (["teach", run, "--file", tmp_path / "binary.tsv"], "UTF-8"),
        (["ask", run, " "], "QUESTION must not be empty"),
        (["ask", run, "x", "--k", 0], "--k must be at least 1; got 0."),
        (["ask", run, "x", "--min-confidence", 2], "--min-confidence must lie between 0 and 1"),
        (["ask", run, "x", "--space", "nowhere"], "nowhere"),
        (["forget", run], "ID must be given, or --match or --source"),
        (["forget", run, 7], "got 7"),
        (["forget", run, 1, "--match", "x"], "only one of them"),
        (["forget", run, "--match", "zorblatt"], "--yes must be given"),
        (["memory", run, "stat"], "Did you mean 'stats'?"),
        (["memory", run, "search"], "QUERY must be given"),
        (["memory", run, "list", "--where", "x"], "--where must look like name=value"),
        (["memory", run, "import", tmp_path / "nowhere"], "nowhere"),
        (["eval", run, "--suite", "recall"], "--file must name"),
        (["eval", run, "--file", "x"], "--file must not be given with --suite perplexity"),
    ):
        done = command(*words)
        assert done.code in {1, 2}, (words, done)
        assert message in done.err, (words, done.err)
        assert "Traceback" not in done.err
    for question in ('"AND (', "NEAR(", "c++ a-b it's *", "zorblatt' OR 1=1 --", "x" * 5000):
        assert command("ask", run, question).code == 0
    json_of(command, "teach", run, "labelled", "--source", "x'; DROP TABLE rows; --")
    assert json_of(command, "memory", run, "stats")["rows"] == 2


def test_texts_may_come_from_standard_input(command: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(FACT))
    json_of(command, "teach", run, "-")
    assert json_of(command, "ask", run, QUESTION)["answer"] == FACT


def test_the_verbs_of_the_memory_do_not_import_torch(run: Path) -> None:
    script = (
        "import sys; from rhapsode.cli import run\n"
        f"assert run(['teach', {str(run)!r}, {FACT!r}]) == 0\n"
        f"assert run(['ask', {str(run)!r}, {QUESTION!r}]) == 0\n"
        f"assert run(['forget', {str(run)!r}, '1']) == 0\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

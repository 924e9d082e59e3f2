"""rhapsode teach, ask, forget and memory: what they print, what they refuse, and that nothing forgotten is left."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhapsode import api
from rhapsode.errors import StateError, UserError
from rhapsode.memory.encoders.callable import CallableEncoder
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


def test_a_question_can_be_put_to_memories_with_some_metadata(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT, "--metadata", "kind=protocol", "--metadata", "year=1987")
    other = "The zorblatt protocol was designed in Oslo in 1999."
    json_of(command, "teach", run, other, "--metadata", "kind=protocol", "--metadata", "year=1999")
    for year, text in ((1987, FACT), (1999, other)):
        where = ["--where", f"year={year}", "--where", "kind=protocol"]
        answer = json_of(command, "ask", run, QUESTION, *where)
        assert answer["answer"] == text
        assert [source["text"] for source in answer["sources"]] == [text]
        lines = command("ask", run, QUESTION, *where).out.splitlines()
        assert (lines[0], len(lines)) == (text, 3)
    nobody = ["--where", "year=1987", "--where", "kind=person"]
    answer = json_of(command, "ask", run, QUESTION, *nobody)
    assert (answer["abstained"], answer["answer"], answer["sources"]) == (True, None, [])
    assert command("ask", run, QUESTION, *nobody).out.splitlines()[0] == "I don't know."
    questions = tmp_path / "questions.txt"
    questions.write_text(f"{QUESTION}\nWho keeps the key?\n")
    answers = json_of(command, "ask", run, "--file", questions, "--where", "year=1999")["answers"]
    assert [answer["answer"] for answer in answers] == [other, None]
    assert command("ask", run, "--file", questions, "--where", "year=1987").out.splitlines()[1] == FACT
    with api.open_memory(run, asking=True) as memory:
        assert memory.ask(QUESTION, where={"year": 1987}).answer == FACT
        assert memory.ask(QUESTION, where={"year": "1987"}).abstained
    assert api.load(run).ask(QUESTION, where={"year": 1999}).answer == other


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
        (["ask", run, "x", "--where", "x"], "--where must look like name=value; got 'x'."),
        (["ask", run, "x", "--where", "a=1", "--where", "a=2"], "--where must give each name once; got a twice."),
        (["ask", run, "--file", "nowhere", "--where", "=x"], "--where must look like name=value; got '=x'."),
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
        f"assert run(['ask', {str(run)!r}, {QUESTION!r}, '--where', 'kind=protocol']) == 0\n"
        f"assert run(['forget', {str(run)!r}, '1']) == 0\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_encoder(command: Command, run: Path, tmp_path: Path) -> None:
    first = json.loads((run / "encoder" / "encoder.json").read_text())
    json_of(command, "teach", run, FACT)
    assert json_of(command, "memory", run, "rebuild", "--encoder", "state")["rows"] == 1
    changed = json.loads((run / "encoder" / "encoder.json").read_text())
    assert (first["kind"], changed["kind"]) == ("static", "state")
    assert json_of(command, "memory", run, "verify")["sound"]
    assert json_of(command, "ask", run, QUESTION)["answer"] == FACT
    assert json_of(command, "memory", run, "rebuild", "--encoder", "static")["rows"] == 1
    assert json.loads((run / "encoder" / "encoder.json").read_text()) == first
    for words, message in (
        (("rebuild", "--encoder", "sttic"), "encoder must be one of"),
        (("verify", "--encoder", "static"), "--encoder must come with rebuild; got verify."),
        (("rebuild", "--encoder", str(tmp_path)), "with modules.json"),
    ):
        done = command("memory", run, *words)
        assert done.code == 2
        assert message in done.err
    assert json_of(command, "ask", run, QUESTION)["answer"] == FACT


def test_an_encoder_of_ones_own(command: Command, run: Path) -> None:
    own = CallableEncoder(lambda texts: [[1.0, len(text), text.count("a")] for text in texts], "letters-1")
    json_of(command, "teach", run, FACT)
    with pytest.raises(UserError, match="--reencode"):
        api.open_memory(run, encoder=own)
    with api.open_memory(run, encoder=own, reencode=True) as memory:
        assert memory.ask(QUESTION).answer == FACT
    done = command("ask", run, QUESTION)
    assert done.code == 2
    assert "must be given as a function" in done.err
    with api.open_memory(run, encoder=own) as memory:
        assert memory.search("protocol", mode="vector")[0].row.text == FACT
    with pytest.raises(StateError, match="finite"):
        api.open_memory(run, encoder=Broken(), reencode=True)
    with api.open_memory(run, encoder=own) as memory:
        assert memory.verify().sound


class Broken:
    """Gives what no store can keep."""

    kind, fingerprint, width = "broken", "0" * 64, 3

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 3), np.nan, dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        raise AssertionError("an encoder that cannot encode must not be kept")


def test_an_older_text_that_answers_again_is_said(command: Command, run: Path) -> None:
    json_of(command, "teach", run, "The door code is 1234.", "--key", "Door code")
    json_of(command, "teach", run, "The door code is 9876.", "--key", "door code")
    old = {"id": 1, "text": "The door code is 1234."}
    assert json_of(command, "forget", run, "2", "--dry-run")["restored"] == [old]
    assert "1 would answer again" in command("forget", run, "2", "--dry-run").out
    assert json_of(command, "forget", run, "2", "--dry-run", "--all-versions")["ids"] == [1, 2]
    assert json_of(command, "memory", run, "show", "2")["versions"] == [1, 2]
    done = command("forget", run, "2")
    named = done.out.split("forget it too with: ")[1].strip()
    assert f"1 answers again: {old['text']}" in done.out
    assert command(*named.split()[1:]).code == 0
    assert json_of(command, "memory", run, "list")["n"] == 0
    for text in ("one", "two"):
        json_of(command, "teach", run, text, "--key", "k")
    result = json_of(command, "forget", run, "--key", " K ", "--yes")
    assert (len(result["ids"]), result["restored"], result["pending"]) == (2, [], False)
    for text in ("one", "two"):
        json_of(command, "teach", run, text, "--key", "k")
    assert len(json_of(command, "forget", run, "6", "--all-versions")["ids"]) == 2
    assert result["elsewhere_ms"] >= 0


def test_an_export_is_the_same_in_a_file_and_on_standard_output(command: Command, run: Path, tmp_path: Path) -> None:
    for text in ("It is one.", "It is two.", "It is one."):
        json_of(command, "teach", run, text, "--key", "it")
    json_of(command, "memory", run, "export", tmp_path / "rows.jsonl")
    out = command("memory", run, "export").out
    assert out == (tmp_path / "rows.jsonl").read_text()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["It is two.", "It is one."]
    imported = json_of(command, "memory", run, "import", tmp_path / "rows.jsonl")
    assert (imported["rows"], imported["created"], imported["superseded"]) == (2, 0, 2)
    assert "2 in the place of older texts" in command("memory", run, "import", tmp_path / "rows.jsonl").out


def test_no_option_is_ignored(command: Command, run: Path, tmp_path: Path) -> None:
    json_of(command, "teach", run, FACT)
    (tmp_path / "empty.txt").write_text(" \n")
    for words, message in (
        (["memory", run, "stats", "--space", "default"], "--space must come with list or search; got stats."),
        (["memory", run, "verify", "--k", "3"], "--k must come with search; got verify."),
        (["memory", run, "search", "x", "--source", "y"], "--source must come with list; got search."),
        (["memory", run, "compact", "--recover"], "--recover must come with rebuild; got compact."),
        (["memory", run, "rebuild", "--recover", "--reencode"], "--recover must be given alone."),
        (["memory", run, "list", "x"], "list must be given alone; got 'x'."),
        (["memory", run, "export", "--json"], "--json must come with a FILE"),
        (["memory", run, "show", "x"], "ID must be the number of a memory; got 'x'."),
        (["memory", run, "list", "--source", ""], "source must hold more than white space"),
        (["forget", run, "1", "--space", "default"], "--space must come with --match, --source or --key"),
        (
            ["forget", run, "--match", "x", "--space", "nowhere", "--yes"],
            "space must be one of default; got 'nowhere'.",
        ),
        (["forget", run, "--source", "x", "--space", "nowhere", "--yes"], "got 'nowhere'."),
        (["forget", run, "--key", "x", "--space", "nowhere", "--yes"], "got 'nowhere'."),
        (["forget", run, "--source", "", "--yes"], "source must hold more than white space"),
        (["teach", run, "x", "--key", ""], "--key must hold more than white space"),
        (["teach", run, "x", "--key", " "], "--key must hold more than white space"),
        (["teach", run, "--file", tmp_path / "empty.txt"], "--file must hold a text to remember"),
        (["teach", run, "x", "--metadata", "y"], "--metadata must look like name=value; got 'y'."),
    ):
        done = command(*words)
        assert (done.code, message in done.err) == (2, True), (words, done)
    assert json_of(command, "memory", run, "list")["n"] == 1


def test_arguments_that_are_no_text(command: Command, run: Path) -> None:
    json_of(command, "teach", run, FACT)
    bad = "a\udcff"
    for words in (
        ["ask", run, bad],
        ["ask", run, "x", "--space", bad],
        ["ask", run, "x", "--where", f"{bad}=1"],
        ["teach", run, "x", "--source", bad],
        ["teach", run, "x", "--space", bad],
        ["teach", run, "x", "--key", bad],
        ["forget", run, "--match", bad],
        ["forget", run, "--source", bad],
        ["forget", run, "--key", bad],
        ["memory", run, "list", "--source", bad],
        ["memory", run, "list", "--space", bad],
        ["memory", run, "list", "--where", f"{bad}=1"],
        ["memory", run, "list", "--where", f"a={bad}"],
        ["memory", run, "search", "x", "--where", f"{bad}=1"],
        ["memory", run, "search", bad],
    ):
        done = command(*words)
        assert (done.code, "must be valid Unicode" in done.err) == (2, True), (words, done)


def test_a_file_says_what_it_replaced_and_a_sentence_is_one_memory(command: Command, run: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.tsv"
    facts.write_text("".join(f"key {i}\tText {i}.\n" for i in range(25)))
    json_of(command, "teach", run, "--file", facts)
    facts.write_text("".join(f"key {i}\tNew {i}.\n" for i in range(22)))
    assert "22 taught, 0 known already, 22 in the place of older texts" in command("teach", run, "--file", facts).out
    (tmp_path / "note.txt").write_text(f"{FACT}\n\nTwo sentences. In one paragraph.\n")
    first = json_of(command, "teach", run, "--file", tmp_path / "note.txt")
    again = json_of(command, "teach", run, FACT, "Two sentences. In one paragraph.")
    assert (again["ids"], again["created"]) == (first["ids"], [False, False])


def test_teaching_again_keeps_what_was_known(command: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(FACT)
    json_of(command, "teach", run, "--file", tmp_path / "note.txt", "--source", "first", "--metadata", "year=1987")
    json_of(command, "teach", run, FACT, "--source", "second")
    json_of(command, "teach", run, FACT)
    row = json_of(command, "memory", run, "show", "1")
    assert row["metadata"] == {"year": 1987}
    assert row["provenance"]["file"] == str(tmp_path / "note.txt")
    assert (row["source"], row["provenance"]["earlier_sources"]) == ("second", ["first"])
    assert json_of(command, "memory", run, "list", "--where", "year=1987")["n"] == 1
    for label in ("first", "second"):
        assert json_of(command, "forget", run, "--source", label, "--dry-run")["ids"] == [1]
    json_of(command, "teach", run, FACT, "--source", "first")
    assert json_of(command, "memory", run, "show", "1")["provenance"]["earlier_sources"] == ["second"]


def test_a_large_file_is_taught_in_parts(run: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.tsv"
    facts.write_text("".join(f"key {i}\tText {i}.\n" for i in range(2_100)))
    told: list[tuple[int, int]] = []
    with api.open_memory(run) as memory:
        assert len(memory.teach(file=facts, progress=lambda done, total: told.append((done, total))).ids) == 2_100
        assert told == [(1_000, 2_100), (2_000, 2_100), (2_100, 2_100)]
        # nothing is written if any part of the file cannot be.
        facts.write_text("".join(f"key {i}\tOther {i}.\n" for i in range(1_500)) + f"last\t{'x' * 1_000_001}\n")
        with pytest.raises(UserError, match=r"items\[1500\]\.text must be at most"):
            memory.teach(file=facts)
        assert memory.stats().rows == 2_100

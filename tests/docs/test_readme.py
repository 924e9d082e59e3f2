"""Every command of the README runs, on a small text and for a few steps."""

import random
import re
import shlex
from pathlib import Path

import pytest

from rhapsode.cli import run

README = Path(__file__).parents[2] / "README.md"
WORDS = "the of and to in that memory model text small learns forgets asks answer dear sir".split()


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the text that the README speaks of, as the working folder."""
    draw = random.Random(0)
    for name in ("notes/one.txt", "notes/two.md", "notes/three.txt", "big/large.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(" ".join(draw.choices(WORDS, k=4000)), encoding="utf-8")
    (tmp_path / "facts.tsv").write_text("door code\tThe code of the door is 4711.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def _small(command: str) -> str:
    """The same command with a budget that fits a test."""
    command = command.replace("--params 5M", "--params 120k").replace("--minutes 3", "--steps 2")
    # shells expand globs; shlex does not, and the command itself must cope with that.
    return command.split("#")[0].strip()


def _commands() -> list[str]:
    return [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("rhapsode ")]


def test_every_shell_command_runs(
    notes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt="": "quit")
    commands = _commands()
    assert len(commands) >= 8
    for command in commands:
        code = run(shlex.split(_small(command))[1:])
        assert code == 0, (command, capsys.readouterr().err)


def test_the_python_block_runs(notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = _blocks("python")
    exec(block.replace('params="5M", minutes=3', 'params="120k", steps=2'), {})
    assert capsys.readouterr().out.strip()


def test_it_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    # tables grow with what is measured.
    assert len([line for line in lines if not line.startswith("| ")]) < 150


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (README.parent / link).exists(), link

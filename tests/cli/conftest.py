"""The command line as a function, and one finished run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rhapsode.cli import run as run_line
from tiny_runs import train_tiny


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `rhapsode WORDS...` in this process."""

    def call(*words: str | Path) -> Done:
        capsys.readouterr()
        code = run_line([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; read-only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(source, out)
    return out

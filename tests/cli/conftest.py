"""The command line as a function, one finished run, and text to train on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rhapsode.cli import run as run_line
from tiny_runs import train_tiny, write_texts


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A training sets the number of threads of its process; give it back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight documents of random words; read-only."""
    return write_texts(tmp_path_factory.mktemp("source") / "texts")


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; read-only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(source, out)
    return out

"""A tiny run as a teacher, and one thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rhapsode.training.distill.decoder_teacher import DecoderTeacher
from tiny_runs import train_tiny, write_texts


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A training sets the number of threads of its process; give it back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight documents of random words; read-only."""
    return write_texts(tmp_path_factory.mktemp("source") / "texts")


@pytest.fixture(scope="session")
def teacher_run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fifteen steps; read-only."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    train_tiny(source, out, settings={"training": {"steps": 15, "batch_size": 8}})
    return out


@pytest.fixture(scope="session")
def teacher(teacher_run: Path) -> DecoderTeacher:
    """The same, loaded."""
    return DecoderTeacher.load(teacher_run)

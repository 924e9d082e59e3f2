"""A tiny run as a teacher."""

from pathlib import Path

import pytest

from rhapsode.training.distill.decoder_teacher import DecoderTeacher
from tiny_runs import train_tiny


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

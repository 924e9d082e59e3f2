"""One finished run for all tests of evaluation; none of them changes it."""

from pathlib import Path

import pytest

from tiny_runs import train_tiny


@pytest.fixture(scope="session")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; read-only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(source, out)
    return out

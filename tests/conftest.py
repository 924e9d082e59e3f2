"""Isolated home, no network, and the shape checker on every annotated signature."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
# the default run draws the same examples on every machine; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
# models of tests are tiny: a second thread costs more than it does, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# compiled code clashes with the checker; tests of compiled code run in a subprocess without it.
install_import_hook("rhapsode", "shape_checker.check")


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test its own home, refuse connections, start on one thread, and undo the mode that a training sets."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "torch" in sys.modules:
        # hypothesis refuses to draw floats where denormals are flushed.
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight documents of random words, about 9 kB; read-only."""
    # memory is tested without torch, which this imports.
    from tiny_runs import write_texts

    return write_texts(tmp_path_factory.mktemp("source") / "texts")

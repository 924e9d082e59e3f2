"""Arrays come back from disk as they were, and what is not theirs is refused."""

from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import StateError
from rhapsode.memory.token_files import read_arrays, write_arrays


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {"a": np.arange(7, dtype=np.int32)[::2], "b": np.random.default_rng(0).normal(size=(3, 2))}
    write_arrays(tmp_path / "x", arrays)
    found = read_arrays(tmp_path / "x", ["a", "b"])
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_misuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(StateError, match="must be readable; got: No such file"):
        read_arrays(path, ["a"])
    path.write_bytes(b"not arrays")
    with pytest.raises(StateError, match="must be a safetensors file"):
        read_arrays(path, ["a"])
    write_arrays(path, {"b": np.ones(1)})
    with pytest.raises(StateError, match="must hold a; got b"):
        read_arrays(path, ["a"])

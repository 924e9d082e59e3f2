"""The approximate index by itself: removal is exact, and a missing package is told."""

import sys

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.memory.ann import AnnIndex


def make_index(number: int, share: float = 1.0) -> tuple[AnnIndex, np.ndarray]:
    keys = np.random.default_rng(0).standard_normal((number, 8)).astype(np.float32)
    return AnnIndex(keys, np.arange(number, dtype=np.int64) + 100, share), keys


@pytest.mark.parametrize("number", [1, 30, 500])
def test_visiting_every_cell_is_exact(number: int) -> None:
    index, keys = make_index(number)
    found = index.search(keys[:5], 3)
    scores = keys[:5] @ keys.T
    wanted = np.argsort(-scores, axis=1)[:, :3] + 100
    assert np.array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == -1).all()


def test_what_is_removed_is_gone_and_what_is_added_is_found() -> None:
    index, keys = make_index(200)
    index.remove(np.array([103, 999], dtype=np.int64))
    assert 103 not in index.search(keys[3:4], 200)
    index.add(keys[3:4] * 100, np.array([777], dtype=np.int64))
    assert index.search(keys[3:4], 1).tolist() == [[777]]
    assert not index.outgrown(400)
    assert index.outgrown(401)


def test_without_faiss_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"search = ann must have the package faiss-cpu; it is not installed. Run: pip"):
        make_index(3)

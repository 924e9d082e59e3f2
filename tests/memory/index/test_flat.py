"""Exact search against sorting by the full product, through adding and removing."""

import numpy as np

from rhapsode.memory.index.flat import FlatIndex


def unit(rng: np.random.Generator, number: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(number, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_it_equals_the_plain_search_through_random_changes() -> None:
    rng = np.random.default_rng(0)
    index, plain = FlatIndex(9), {}
    for step in range(120):
        if rng.random() < 0.7 or not plain:
            ids = rng.choice(400, rng.integers(1, 20), replace=False)
            vectors = unit(rng, len(ids), 9)
            index.add(ids, vectors)
            plain.update(zip(ids.tolist(), vectors, strict=True))
        else:
            ids = rng.choice(400, rng.integers(1, 30), replace=False)
            index.remove(ids)
            for i in ids.tolist():
                plain.pop(i, None)
        assert len(index) == len(plain)
        assert set(index.ids().tolist()) == set(plain)
        query, k = unit(rng, 1, 9)[0], int(rng.integers(1, 30))
        allowed = None if step % 2 else np.sort(rng.choice(400, 100, replace=False))
        wanted = [i for i in plain if allowed is None or i in allowed]
        best = sorted(wanted, key=lambda i: -float(plain[i] @ query))[:k]
        assert set(index.search(query, k, allowed).tolist()) == set(best)


def test_ties_are_all_returned() -> None:
    index = FlatIndex(3)
    index.add(np.arange(50), np.tile(np.array([[1, 0, 0]], dtype=np.float32), (50, 1)))
    assert len(index.search(np.array([1, 0, 0], dtype=np.float32), 5)) == 50
    assert len(FlatIndex(3).search(np.array([1, 0, 0], dtype=np.float32), 5)) == 0


def test_a_removed_vector_is_not_in_memory() -> None:
    index = FlatIndex(4)
    index.add(np.array([1, 2]), np.array([[1, 0, 0, 0], [0.25, 0.5, 0.125, 0]], dtype=np.float32))
    index.remove(np.array([2]))
    assert np.array([0.25, 0.5], dtype=np.float32).tobytes() not in index._vectors.tobytes()

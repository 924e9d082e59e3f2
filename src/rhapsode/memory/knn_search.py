"""Nearest vectors: exact among those in memory, approximate among those of a large text that does not change.

Distances are squared Euclidean. Shape letters: N items, D width, Q queries, K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, Integer

from rhapsode.errors import StateError, UserError
from rhapsode.memory.token_files import read_arrays, write_arrays

# fewer items than this are searched one by one.
_MIN_INDEXED = 20_000
_ITEMS_A_LIST = 1_000
_SAMPLE_A_LIST = 50
_LISTS_SEARCHED = 16
_ADDED_AT_ONCE = 1 << 16
_BYTES_A_VECTOR = 48


@dataclass(frozen=True)
class Neighbours:
    """What was found near each query, in no order. A place without one has distance infinity and id 0."""

    distances: Float32[np.ndarray, "Q K"]
    token_ids: Int64[np.ndarray, "Q K"]


def nearest(
    queries: Float32[np.ndarray, "Q D"],
    vectors: Float32[np.ndarray, "N D"],
    followers: Int32[np.ndarray, " N"],
    num_neighbours: int,
) -> Neighbours:
    """Return the exact nearest of `vectors` and the ids that followed them. Cost O(Q N D)."""
    import faiss

    distances, rows = faiss.knn(np.ascontiguousarray(queries), vectors, min(num_neighbours, len(vectors)))
    # rounding can take a distance between equal vectors below 0.
    return Neighbours(np.maximum(distances, 0), followers[rows].astype(np.int64))


def earlier(vectors: Float32[np.ndarray, "N D"], followers: Int32[np.ndarray, " N"]) -> Neighbours:
    """Return for each of N vectors in a text all those before it, with what followed them. Cost O(N^2 D)."""
    norms = np.einsum("nd,nd->n", vectors, vectors)
    distances = np.maximum(norms[:, None] + norms - 2 * (vectors @ vectors.T), 0)
    distances[np.triu_indices(len(vectors))] = np.inf
    token_ids = np.where(np.isfinite(distances), followers.astype(np.int64)[None], 0)
    return Neighbours(distances, token_ids)


def merge(found: Sequence[Neighbours], num_queries: int, num_neighbours: int) -> Neighbours:
    """Return the nearest of all that was found; as many as there are, at most `num_neighbours`."""
    if not found:
        return Neighbours(np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64))
    distances = np.concatenate([part.distances for part in found], axis=1)
    token_ids = np.concatenate([part.token_ids for part in found], axis=1)
    if distances.shape[1] <= num_neighbours:
        return Neighbours(distances, token_ids)
    chosen = np.argpartition(distances, num_neighbours - 1, axis=1)[:, :num_neighbours]
    return Neighbours(np.take_along_axis(distances, chosen, axis=1), np.take_along_axis(token_ids, chosen, axis=1))


class KNNBase:
    """Vectors of a text that stays, such as the training text, in an index that is built once.

    Product quantisation (Jegou et al. 2011) of vectors in inverted lists: some 56 bytes an item instead of 4 D, and
    16 lists of all are searched. Both are approximate; few items are kept as they are and searched exactly.
    """

    def __init__(self, index: Any, followers: Int32[np.ndarray, " N"]) -> None:
        """Use `build` or `load`."""
        self._index = index
        self._followers = followers

    @classmethod
    def build(cls, followers: Integer[np.ndarray, " N"], vectors: Float[np.ndarray, "N D"]) -> "KNNBase":
        """Index vectors and the ids that followed them.

        Args:
            vectors: float16 will do.

        Returns:
            the base. Cost O(N D) and the training of the index, about a minute for a million.

        Raises:
            UserError: if there are none.
        """
        import faiss

        size, dim = vectors.shape
        if size == 0:
            raise UserError("a base must have at least one vector; got none. Give a text of two ids or more.")
        if size < _MIN_INDEXED:
            index: Any = faiss.IndexFlatL2(dim)
        else:
            num_lists = size // _ITEMS_A_LIST
            parts = max(part for part in range(1, _BYTES_A_VECTOR + 1) if dim % part == 0)
            index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dim), dim, num_lists, parts, 8)
            index.nprobe = min(_LISTS_SEARCHED, num_lists)
            step = max(1, size // (_SAMPLE_A_LIST * num_lists))
            index.train(vectors[::step].astype(np.float32))
        for begin in range(0, size, _ADDED_AT_ONCE):
            index.add(vectors[begin : begin + _ADDED_AT_ONCE].astype(np.float32))
        return cls(index, followers.astype(np.int32))

    def save(self, path: Path) -> None:
        """Write the base as one safetensors file, atomically.

        Raises:
            StateError: if the file cannot be written.
        """
        import faiss

        write_arrays(path, {"index": faiss.serialize_index(self._index), "followers": self._followers})

    @classmethod
    def load(cls, path: Path) -> "KNNBase":
        """Read what `save` wrote.

        Raises:
            StateError: if the file is missing or damaged.
        """
        import faiss

        arrays = read_arrays(path, ("index", "followers"))
        try:
            index = faiss.deserialize_index(arrays["index"])
        except RuntimeError:
            index = None
        if index is None or index.ntotal != len(arrays["followers"]):
            raise StateError(f"{path} must hold an index of vectors, but it is damaged. Build it again.")
        return cls(index, arrays["followers"])

    @property
    def dim(self) -> int:
        """D."""
        return int(self._index.d)

    @property
    def size_bytes(self) -> int:
        """Bytes of the index, as it is on disk, and of the ids."""
        import faiss

        return int(faiss.serialize_index(self._index).nbytes) + self._followers.nbytes

    def search(self, queries: Float32[np.ndarray, "Q D"], num_neighbours: int) -> Neighbours:
        """Return neighbours, perhaps not the very nearest."""
        distances, rows = self._index.search(np.ascontiguousarray(queries), num_neighbours)
        missing = rows < 0
        token_ids = np.where(missing, 0, self._followers[np.where(missing, 0, rows)]).astype(np.int64)
        return Neighbours(np.where(missing, np.inf, np.maximum(distances, 0)).astype(np.float32), token_ids)

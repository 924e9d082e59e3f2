"""Exact search: every vector of a space, in memory.

Shape letters: N rows, M width, A allowed rows, K hits.
"""

import numpy as np
from jaxtyping import Float32, Int64


class FlatIndex:
    """Unit vectors side by side. Adding is O(M) amortised, removing O(M), searching O(N M)."""

    kind = "flat"

    def __init__(self, width: int) -> None:
        self.width = width
        self._ids = np.empty(16, dtype=np.int64)
        self._vectors = np.empty((16, width), dtype=np.float32)
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def ids(self) -> Int64[np.ndarray, " N"]:
        """Return all ids, in no order."""
        return self._ids[: len(self)].copy()

    def add(self, ids: Int64[np.ndarray, " N"], vectors: Float32[np.ndarray, "N M"]) -> None:
        """Add rows; one that is there already gets the new vector."""
        needed = len(self) + len(ids)
        if needed > len(self._ids):
            size = max(needed, 2 * len(self._ids))
            self._ids = np.concatenate([self._ids, np.empty(size - len(self._ids), dtype=np.int64)])
            more = np.empty((size - len(self._vectors), self.width), dtype=np.float32)
            self._vectors = np.concatenate([self._vectors, more])
        for row_id, vector in zip(ids.tolist(), vectors, strict=True):
            place = self._place.setdefault(row_id, len(self._place))
            self._ids[place] = row_id
            self._vectors[place] = vector

    def remove(self, ids: Int64[np.ndarray, " N"]) -> None:
        """Remove rows; one that is not there is left alone."""
        for row_id in ids.tolist():
            place = self._place.pop(row_id, None)
            if place is None:
                continue
            last = len(self._place)
            if place != last:
                moved = int(self._ids[last])
                self._ids[place] = moved
                self._vectors[place] = self._vectors[last]
                self._place[moved] = place
            self._vectors[last] = 0

    def search(
        self, vector: Float32[np.ndarray, " M"], k: int, allowed: Int64[np.ndarray, " A"] | None = None
    ) -> Int64[np.ndarray, " K"]:
        """Return the ids of the k nearest by inner product, in no order; fewer if there are fewer."""
        ids = self._ids[: len(self)]
        scores = self._vectors[: len(self)] @ vector
        if allowed is not None:
            keep = np.isin(ids, allowed)
            ids, scores = ids[keep], scores[keep]
        if k < len(ids):
            # what ties with the last one stays, so that the caller's order decides and not the order in memory.
            bound = np.partition(scores, len(ids) - k)[len(ids) - k]
            ids = ids[scores >= bound - 1e-6]
        return ids.copy()

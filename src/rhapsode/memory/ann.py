"""Approximate nearest neighbours by FAISS: keys in cells, of which a search visits a share. Torch-free."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rhapsode.errors import UserError

# FAISS warns when a cell is learnt from fewer keys.
_KEYS_PER_CELL = 39
_MAX_CELLS = 4096


class AnnIndex:
    """An inverted file over the inner product (Jegou et al. 2011; Johnson et al. 2017, arXiv 1702.08734).

    Keys of unit length make it the cosine. Removal is exact; the cells are those of the keys it was made of, so
    that a memory that has grown should make a new one.
    """

    def __init__(self, keys: Float[np.ndarray, "N K"], ids: Int[np.ndarray, " N"], share: float) -> None:
        """Learn the cells and add every key.

        Args:
            share: of the cells that a search visits, in (0, 1].

        Raises:
            UserError: if faiss is not installed.
        """
        faiss = _import_faiss()
        cells = max(1, min(int(4 * len(keys) ** 0.5), len(keys) // _KEYS_PER_CELL, _MAX_CELLS))
        self._quantizer = faiss.IndexFlatIP(keys.shape[1])
        self._index = faiss.IndexIVFFlat(self._quantizer, keys.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        keys = np.ascontiguousarray(keys)
        self._index.train(keys)
        self._index.add_with_ids(keys, ids)
        self._index.nprobe = max(1, round(cells * share))
        self._made_of = len(keys)

    def outgrown(self, num_entries: int) -> bool:
        """Say whether the memory has doubled since the cells were learnt."""
        return num_entries > 2 * self._made_of

    def add(self, keys: Float[np.ndarray, "N K"], ids: Int[np.ndarray, " N"]) -> None:
        """Add keys under ids that are not here."""
        self._index.add_with_ids(np.ascontiguousarray(keys), ids)

    def remove(self, ids: Int[np.ndarray, " N"]) -> None:
        """Remove ids; those that are not here are passed over. O(entries)."""
        self._index.remove_ids(ids)

    def search(self, queries: Float[np.ndarray, "B K"], k: int) -> Int[np.ndarray, "B k"]:
        """Return the ids of about the k best, best first, -1 where the visited cells held fewer."""
        _, ids = self._index.search(np.ascontiguousarray(queries), k)
        return np.asarray(ids, dtype=np.int64)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "search = ann must have the package faiss-cpu; it is not installed. Run: pip install faiss-cpu"
        ) from None
    return faiss

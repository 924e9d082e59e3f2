"""Approximate search in large spaces: an inverted file of 4-bit codes, through FAISS.

Vectors are grouped around L centroids; a search reads the lists of the few centroids nearest to the query, and compares
the query with the codes in them. Each code is the difference from its centroid, four bits a number between the smallest
and largest seen in training. The caller compares the best candidates again with the vectors themselves.

Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor search" (the inverted file of residuals); codes
are scalar here: at equal recall after re-ranking they need no tables for each query, and removing is exact.

Shape letters: N rows, M width, L lists, A allowed rows, K hits, P queries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from rhapsode.memory.config import IndexConfig

ITERATIONS = 10
SEED = 0
NEAREST = 10
"""Neighbours by which the number of probes is chosen."""


@dataclass(frozen=True)
class InvertedParts:
    """All that an inverted file consists of, list after list."""

    centroids: Float32[np.ndarray, "L M"]
    ranges: Float32[np.ndarray, " R"]
    """Of the codes, as FAISS keeps them."""
    sizes: Int64[np.ndarray, " L"]
    ids: Int64[np.ndarray, " N"]
    codes: UInt8[np.ndarray, "N C"]
    probes: int
    trained_on: int
    """Rows of the space when the centroids were trained."""


class InvertedIndex:
    """Unit vectors as 4-bit codes in lists.

    Adding is O(L M) a row, removing O(N) a call, searching O(L M + probes N M / L).
    """

    kind = "inverted file"

    def __init__(
        self, centroids: Float32[np.ndarray, "L M"], trained_on: int, config: IndexConfig, probes: int = 1
    ) -> None:
        """Make an empty index whose codes are not trained yet; see `train` and `from_parts`."""
        faiss = _import_faiss()
        self.width = centroids.shape[1]
        self.trained_on = trained_on
        self.probes = probes
        self._config = config
        self._centroids = centroids
        self._quantizer = faiss.IndexFlatIP(self.width)
        self._quantizer.add(centroids)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer,
            self.width,
            len(centroids),
            faiss.ScalarQuantizer.QT_4bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._largest_id = 0

    @classmethod
    def train(cls, sample: Float32[np.ndarray, "N M"], num_rows: int, config: IndexConfig) -> "InvertedIndex":
        """Find centroids and the ranges of codes; the index is still empty. Cost O(N L M)."""
        faiss = _import_faiss()
        num_lists = max(1, min(round(config.lists_factor * num_rows**0.5), len(sample) // config.points_per_list))
        kmeans = faiss.Kmeans(
            sample.shape[1],
            num_lists,
            niter=ITERATIONS,
            seed=SEED,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=max(1, len(sample) // num_lists + 1),
        )
        kmeans.train(sample)
        index = cls(np.asarray(kmeans.centroids, dtype=np.float32), num_rows, config)
        index._index.train(sample)
        return index

    @classmethod
    def from_parts(cls, parts: InvertedParts, config: IndexConfig) -> "InvertedIndex":
        """Rebuild an index that was saved; ids below 0 stand for erased rows and are left out."""
        faiss = _import_faiss()
        index = cls(parts.centroids, parts.trained_on, config, parts.probes)
        faiss.copy_array_to_vector(parts.ranges, index._index.sq.trained)
        index._index.is_trained = True
        start = 0
        for number, size in enumerate(parts.sizes.tolist()):
            live = parts.ids[start : start + size] >= 0
            ids = np.ascontiguousarray(parts.ids[start : start + size][live])
            codes = np.ascontiguousarray(parts.codes[start : start + size][live])
            if len(ids):
                index._index.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
                index._index.ntotal += len(ids)
            start += size
        index._largest_id = int(parts.ids.max(initial=0))
        return index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def parts(self) -> InvertedParts:
        """Return copies of everything, to be saved."""
        faiss = _import_faiss()
        lists = self._index.invlists
        sizes = np.array([lists.list_size(number) for number in range(len(self._centroids))], dtype=np.int64)
        ids = np.empty(sizes.sum(), dtype=np.int64)
        codes = np.empty((sizes.sum(), lists.code_size), dtype=np.uint8)
        start = 0
        for number, size in enumerate(sizes.tolist()):
            if size:
                ids[start : start + size] = faiss.rev_swig_ptr(lists.get_ids(number), size)
                flat = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                codes[start : start + size] = flat.reshape(size, -1)
            start += size
        ranges = faiss.vector_to_array(self._index.sq.trained)
        return InvertedParts(self._centroids, ranges, sizes, ids, codes, self.probes, self.trained_on)

    def ids(self) -> Int64[np.ndarray, " N"]:
        """Return all ids, in no order."""
        return self.parts().ids

    def add(self, ids: Int64[np.ndarray, " N"], vectors: Float32[np.ndarray, "N M"]) -> None:
        """Add rows; one that is there already gets the new vector."""
        if not len(ids):
            return
        # FAISS would keep both; ids only grow, so that most are new for certain.
        self.remove(ids[ids <= self._largest_id])
        self._index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(ids))
        self._largest_id = max(self._largest_id, int(ids.max()))

    def remove(self, ids: Int64[np.ndarray, " N"]) -> None:
        """Remove rows; one that is not there is left alone."""
        if len(ids):
            self._index.remove_ids(_import_faiss().IDSelectorBatch(np.ascontiguousarray(ids)))

    def search(
        self, vector: Float32[np.ndarray, " M"], k: int, allowed: Int64[np.ndarray, " A"] | None = None
    ) -> Int64[np.ndarray, " K"]:
        """Return the ids of candidates for the k nearest, best first by their codes, at least k if there are."""
        depth = min(max(self._config.rerank, 2 * k), len(self))
        if depth == 0:
            return np.empty(0, dtype=np.int64)
        found = self._search(vector[None], depth, self._probes_for(depth), allowed)[0]
        candidates: Int64[np.ndarray, " K"] = found[found >= 0]
        return candidates

    def tune(self, queries: Float32[np.ndarray, "P M"], truth: Int64[np.ndarray, "P K"]) -> None:
        """Choose the fewest probes with which the candidates hold enough of the true neighbours."""
        probes = 1
        while True:
            found = self._search(queries, min(self._config.rerank, len(self)), probes, None)
            hits = [np.isin(row, candidates).mean() for row, candidates in zip(truth, found, strict=True)]
            if np.mean(hits) >= self._config.target_recall or probes >= self._limit():
                break
            # steps of a quarter: a doubling could search nearly twice as much as is needed.
            probes = min(self._limit(), probes + max(1, probes // 4))
        self.probes = probes

    def _limit(self) -> int:
        return min(self._config.max_probes, len(self._centroids))

    def _probes_for(self, depth: int) -> int:
        """Return the lists to read: more where the usual ones may hold too few rows."""
        needed = 2 * depth * len(self._centroids) // max(1, len(self)) + 1
        return min(len(self._centroids), max(self.probes, needed))

    def _search(
        self, queries: Float32[np.ndarray, "P M"], k: int, probes: int, allowed: Int64[np.ndarray, " A"] | None
    ) -> Int64[np.ndarray, "P K"]:
        faiss = _import_faiss()
        options: dict[str, Any] = {"nprobe": probes}
        if allowed is not None:
            options["sel"] = faiss.IDSelectorBatch(np.ascontiguousarray(allowed))
        _, ids = self._index.search(np.ascontiguousarray(queries), k, params=faiss.SearchParametersIVF(**options))
        return np.asarray(ids)


def _import_faiss() -> Any:
    import faiss

    return faiss

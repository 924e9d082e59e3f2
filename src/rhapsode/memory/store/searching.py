"""Search: full text, vectors, and the fusion of both, within one snapshot."""

import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from rhapsode.errors import StateError, UserError, unknown_name
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Encoder, Hit
from rhapsode.memory.store.checks import MODES, check_k, check_string, check_vectors, encode_texts
from rhapsode.memory.store.database import Database
from rhapsode.memory.store.filtering import Selector
from rhapsode.memory.store.reading import find_space, get_rows_that_exist, read_setting, read_width
from rhapsode.memory.store.text_search import search_text, take_best
from rhapsode.memory.store.vector_search import VectorSearch
from rhapsode.memory.store.vectors import compute_cosines
from rhapsode.memory.store.writing import encoder_changed
from rhapsode.memory.terms import find_terms

Ids = Int64[np.ndarray, "_"]


class Searcher:
    """Answers queries on one store."""

    def __init__(
        self,
        database: Database,
        vectors: VectorSearch,
        selector: Selector,
        encoder: Encoder | None,
        config: StoreConfig,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._selector = selector
        self._encoder = encoder
        self._config = config

    def search(
        self,
        query: str,
        k: int,
        space: str,
        where: Mapping[str, Any] | None,
        vector: Float[np.ndarray, " M"] | None,
        mode: str,
    ) -> list[Hit]:
        """See `SQLiteStore.search`."""
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        check_k(k)
        check_string(query, "query", self._config.max_query_bytes)
        unit = self._query_vector(query, vector, mode)
        depth = max(k, self._config.fusion_depth) if mode == "hybrid" else k
        with self._database.snapshot() as connection:
            number = find_space(connection, space)
            selection = self._selector.select(connection, number, where) if where else None
            rankings: list[Ids] = []
            found, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
            cosine: dict[int, float] = {}
            if mode != "vector":
                found, scores = search_text(connection, number, find_terms(query), self._config, selection)
                rankings.append(take_best(found, scores, depth)[0])
            if unit is not None:
                self._check_encoder(connection, given=vector is not None)
                check_vectors(unit[None], 1, read_width(connection), "vector")
                allowed = None if selection is None else selection.ids
                ids, _ = self._vectors.search(connection, number, unit, depth, allowed)
                rankings.append(ids)
            best = fuse(rankings, self._config.fusion_constant)[:k]
            if unit is not None and unit.any():
                present, cosines = compute_cosines(connection, np.array([i for i, _ in best], dtype=np.int64), unit)
                cosine = dict(zip(present.tolist(), cosines.tolist(), strict=True))
            rows = get_rows_that_exist(connection, [row_id for row_id, _ in best])
            if len(rows) < len(best):
                raise StateError(
                    "the index of the memory must name rows that are there; it does not. "
                    "Repair it with: rhapsode memory RUN rebuild"
                )
        self._vectors.save_if_stale()
        hits = []
        for row, (row_id, fused) in zip(rows, best, strict=True):
            parts = {"bm25": _score_of(row_id, found, scores)} if mode != "vector" else {}
            if unit is not None:
                parts["vector"] = cosine.get(row_id, 0.0)
            hits.append(Hit(row, fused if len(rankings) > 1 else next(iter(parts.values())), parts))
        return hits

    def _check_encoder(self, connection: sqlite3.Connection, *, given: bool) -> None:
        """Another process may have encoded all rows again since this store was opened."""
        stored = read_setting(connection, "encoder")
        if self._encoder is not None and not given and stored not in (None, self._encoder.fingerprint):
            raise encoder_changed(str(stored), self._encoder.fingerprint)

    def _query_vector(
        self, query: str, vector: Float[np.ndarray, " M"] | None, mode: str
    ) -> Float32[np.ndarray, " M"] | None:
        if mode == "text":
            return None
        if vector is not None:
            given: Float32[np.ndarray, " M"] = check_vectors(vector[None], 1, None, "vector")[0]
            return given
        if self._encoder is not None:
            made: Float32[np.ndarray, " M"] = encode_texts(self._encoder, [query])[0]
            return made
        if mode == "vector":
            raise UserError("mode 'vector' must have an encoder or a vector; got neither. Use mode 'text'.")
        return None


def _score_of(row_id: int, ids: Int64[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """Return the score of a row, 0 if it is not among the sorted ids."""
    place = int(np.searchsorted(ids, row_id))
    return float(scores[place]) if place < len(ids) and ids[place] == row_id else 0.0


def fuse(rankings: list[Ids], constant: float) -> list[tuple[int, float]]:
    """Return ids with the sum of 1 / (constant + rank) over the rankings that hold them, best first, then by id.

    >>> fuse([np.array([7, 8]), np.array([8])], 60.0)[0]
    (8, 0.03252247488101534)
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row_id in enumerate(ranking.tolist(), start=1):
            scores[row_id] = scores.get(row_id, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))

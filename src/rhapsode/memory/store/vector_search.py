"""Vector search over one store: an index a space, kept up to date from the log of changes.

Small spaces are compared in full. Above `index.flat_limit` rows an inverted file is trained, at the first search that
needs it, and kept in a file beside the database. A file is only a cache: it says up to which change it goes, each
process replays the rest, and a damaged one is built again, which the log `rhapsode.memory` says.
"""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rhapsode.errors import StateError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.index.file import DamagedIndexError, SavedIndex, load_index, save_index
from rhapsode.memory.index.flat import FlatIndex
from rhapsode.memory.index.inverted import NEAREST, InvertedIndex
from rhapsode.memory.store.database import Database
from rhapsode.memory.store.index_files import index_path
from rhapsode.memory.store.reading import last_seq, read_setting, read_width
from rhapsode.memory.store.vectors import compute_cosines, iterate_vectors, read_current_ids

TUNING_QUERIES = 128
SAVE_AFTER_CHANGES = 20_000
"""A file this far behind is written again; replaying as many takes about a second."""
EXACT_FILTERED = 20_000
"""Up to this many rows left by a filter are compared in full."""
log = logging.getLogger("rhapsode.memory")
Found = tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]


@dataclass
class _Loaded:
    """An index in memory, up to `seq`; its file was last written, or tried to be, at `tried_seq`."""

    index: FlatIndex | InvertedIndex
    encoder: str
    seq: int
    tried_seq: int | None = None


class VectorSearch:
    """The indexes of this process; each is loaded when it is first searched."""

    def __init__(self, database: Database, config: StoreConfig) -> None:
        self._database = database
        self._config = config
        self._loaded: dict[int, _Loaded] = {}

    def search(
        self,
        connection: sqlite3.Connection,
        space: int,
        vector: Float32[np.ndarray, " M"],
        k: int,
        allowed: Int64[np.ndarray, " A"] | None = None,
    ) -> Found:
        """Return ids and cosines of the k nearest rows with a cosine above 0, best first, then by id.

        Whatever found the candidates, their cosines are computed from the stored vectors.
        """
        index = self.sync(connection, space)
        if index is None or not vector.any():
            return np.empty(0, np.int64), np.empty(0, np.float64)
        if allowed is not None and isinstance(index, InvertedIndex) and len(allowed) <= EXACT_FILTERED:
            candidates = np.intersect1d(allowed, read_current_ids(connection, space), assume_unique=True)
        else:
            candidates = index.search(vector, k, allowed)
        ids, cosines = compute_cosines(connection, candidates, vector)
        ids, cosines = ids[cosines > 0], cosines[cosines > 0]
        order = np.lexsort((ids, -cosines))[:k]
        return ids[order], cosines[order]

    def kind(self, connection: sqlite3.Connection, space: int) -> str:
        """Return the kind of index a space has, or would have."""
        loaded = self._loaded.get(space)
        if loaded is not None:
            return loaded.index.kind
        return InvertedIndex.kind if self.is_large(connection, space) else FlatIndex.kind

    def sync(self, connection: sqlite3.Connection, space: int) -> FlatIndex | InvertedIndex | None:
        """Return the index of a space as of this snapshot; None if the store has no vectors."""
        width, encoder, seq = read_width(connection), read_setting(connection, "encoder"), last_seq(connection)
        if width is None or encoder is None:
            return None
        loaded = self._loaded.get(space)
        if loaded is None or loaded.encoder != encoder or not _reaches(connection, loaded.seq, seq):
            loaded = self._load(connection, space, width, encoder, seq)
        if loaded.seq < seq:
            _replay(connection, space, loaded, width)
            loaded.seq = seq
        if isinstance(loaded.index, FlatIndex) and len(loaded.index) > self._config.index.flat_limit:
            loaded = _Loaded(self._build(connection, space, width), encoder, seq)
        self._loaded[space] = loaded
        return loaded.index

    def save_if_stale(self) -> None:
        """Write what is far behind; that a file cannot be written is logged, for it is only a cache."""
        if self._database.read_only:
            return
        # another thread of this process may be loading an index.
        with self._database.lock:
            stale = [space for space, loaded in self._loaded.items() if _is_stale(loaded)]
            try:
                if stale:
                    self.save(stale)
            except StateError as error:
                for space in stale:
                    self._loaded[space].tried_seq = self._loaded[space].seq
                log.warning("the vector index could not be written and stays in memory: %s", error)

    def save(self, spaces: Sequence[int]) -> None:
        """Write the files of large spaces.

        Raises:
            StateError: if a file cannot be written.
        """
        # under the write lock nothing can be forgotten between the last change replayed and the new file.
        with self._database.transaction() as connection:
            for space in spaces:
                index = self.sync(connection, space)
                if isinstance(index, InvertedIndex):
                    loaded = self._loaded[space]
                    path = index_path(self._database.folder, space)
                    save_index(path, SavedIndex(index.parts(), loaded.seq, loaded.encoder))
                    loaded.tried_seq = loaded.seq

    def remove_unused(self) -> None:
        """Remove the files of spaces that have become small."""
        with self._database.transaction() as connection:
            for (space,) in connection.execute("SELECT id FROM spaces"):
                if not self.is_large(connection, space):
                    self._loaded.pop(space, None)
                    index_path(self._database.folder, space).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all that is in memory, and remove the files; the caller holds the write lock."""
        self._loaded.clear()
        for path in self._database.folder.glob("index-*.bin"):
            path.unlink()

    def is_large(self, connection: sqlite3.Connection, space: int) -> bool:
        """Return whether a space has more rows than are compared in full."""
        (num_rows,) = connection.execute("SELECT num_rows FROM spaces WHERE id = ?", (space,)).fetchone()
        return bool(num_rows > self._config.index.flat_limit)

    def _load(self, connection: sqlite3.Connection, space: int, width: int, encoder: str, seq: int) -> _Loaded:
        if self.is_large(connection, space):
            loaded = self._load_file(connection, space, encoder, seq)
            return loaded or _Loaded(self._build(connection, space, width), encoder, seq)
        index = FlatIndex(width)
        for ids, vectors in iterate_vectors(connection, read_current_ids(connection, space), width):
            index.add(ids, vectors)
        return _Loaded(index, encoder, seq)

    def _load_file(self, connection: sqlite3.Connection, space: int, encoder: str, seq: int) -> _Loaded | None:
        """Return what the file holds, or None if it is missing or of no use any more."""
        path = index_path(self._database.folder, space)
        try:
            saved = load_index(path)
        except FileNotFoundError:
            return None
        except DamagedIndexError as error:
            log.warning("%s is damaged (%s) and is built again; no row is lost.", path, error)
            return None
        (num_rows,) = connection.execute("SELECT num_rows FROM spaces WHERE id = ?", (space,)).fetchone()
        factor = self._config.index.retrain_factor
        outgrown = not saved.parts.trained_on / factor <= num_rows <= saved.parts.trained_on * factor
        if saved.encoder != encoder or outgrown or not _reaches(connection, saved.seq, seq):
            return None
        return _Loaded(InvertedIndex.from_parts(saved.parts, self._config.index), encoder, saved.seq, saved.seq)

    def _build(self, connection: sqlite3.Connection, space: int, width: int) -> InvertedIndex:
        """Train and fill an inverted file, and choose its probes by the true neighbours of some of its rows."""
        config = self._config.index
        ids = read_current_ids(connection, space)
        num_sampled = min(len(ids), round(config.points_per_list * config.lists_factor * len(ids) ** 0.5))
        places = np.random.default_rng(0).choice(len(ids), num_sampled, replace=False)
        sample = np.concatenate([part for _, part in iterate_vectors(connection, ids[np.sort(places)], width)])
        index = InvertedIndex.train(sample, len(ids), config)
        queries = sample[:: max(1, len(sample) // TUNING_QUERIES)][:TUNING_QUERIES].copy()
        del sample
        best_ids = np.empty((len(queries), 0), dtype=np.int64)
        best = np.empty((len(queries), 0), dtype=np.float32)
        for part_ids, vectors in iterate_vectors(connection, ids, width):
            index.add(part_ids, vectors)
            best = np.concatenate([best, queries @ vectors.T], axis=1)
            best_ids = np.concatenate([best_ids, np.broadcast_to(part_ids, (len(queries), len(part_ids)))], axis=1)
            # a row is its own nearest neighbour and says nothing: one more is kept, and it is left out below.
            order = np.argsort(-best, axis=1)[:, : NEAREST + 1]
            best, best_ids = np.take_along_axis(best, order, 1), np.take_along_axis(best_ids, order, 1)
        index.tune(queries, best_ids[:, 1:])
        return index


def _is_stale(loaded: _Loaded) -> bool:
    if isinstance(loaded.index, FlatIndex):
        return False
    return loaded.tried_seq is None or loaded.seq - loaded.tried_seq >= SAVE_AFTER_CHANGES


def _reaches(connection: sqlite3.Connection, after: int, seq: int) -> bool:
    """Return whether the log still has every change after `after`."""
    (first,) = connection.execute("SELECT min(seq) FROM changes").fetchone()
    return after == seq or (after < seq and first is not None and first <= after + 1)


def _replay(connection: sqlite3.Connection, space: int, loaded: _Loaded, width: int) -> None:
    changed = dict(
        connection.execute("SELECT id, op FROM changes WHERE seq > ? AND space = ? ORDER BY seq", (loaded.seq, space))
    )
    if not changed:
        return
    added = np.array([i for i, op in changed.items() if op == "add"], dtype=np.int64)
    # a vector may have become zero, which is never found: what is added again is removed first.
    loaded.index.remove(np.array(list(changed), dtype=np.int64))
    for ids, vectors in iterate_vectors(connection, added, width):
        loaded.index.add(ids, vectors)

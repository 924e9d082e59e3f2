"""What keeps a store in order: its statistics, its check, and building again what can be built from the rows."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rhapsode.errors import StateError
from rhapsode.memory.contracts import Encoder
from rhapsode.memory.store.checks import encode_json, encode_texts
from rhapsode.memory.store.database import Database
from rhapsode.memory.store.postings import PostingChanges
from rhapsode.memory.store.reading import last_seq, read_setting, space_names
from rhapsode.memory.store.schema import schema_version
from rhapsode.memory.store.vector_search import VectorSearch
from rhapsode.memory.store.vectors import encode_vector
from rhapsode.memory.store.writing import KEPT_CHANGES, log_change
from rhapsode.memory.terms import searchable

BATCH = 10_000
ENCODED_AT_ONCE = 1_000


@dataclass(frozen=True)
class SpaceStats:
    """One space of a store."""

    rows: int
    """Current and superseded."""
    current: int
    """Rows that can be found."""
    index: str | None
    """How its vectors are searched; None if the store has none."""


@dataclass(frozen=True)
class StoreStats:
    """What a store holds."""

    rows: int
    current: int
    superseded: int
    spaces: dict[str, SpaceStats]
    encoder: str | None
    """Fingerprint of the encoder whose vectors are stored."""
    width: int | None
    without_vector: int
    """Rows that only text search finds."""
    pending_erasures: int
    """Forgotten rows whose bytes may still be in a file."""
    size_bytes: int
    """Of all files of the store."""
    seq: int
    schema_version: int


def collect_stats(database: Database, vectors: VectorSearch) -> StoreStats:
    """Count. Cost O(N) reads of an index."""
    with database.snapshot() as connection:
        counts: dict[int, tuple[int, int]] = {
            space: (rows, current)
            for space, rows, current in connection.execute(
                "SELECT space, count(*), sum(superseded_by IS NULL) FROM rows GROUP BY space"
            )
        }
        encoder, width = read_setting(connection, "encoder"), read_setting(connection, "width")
        spaces = {
            name: SpaceStats(*counts.get(number, (0, 0)), vectors.kind(connection, number) if encoder else None)
            for name, number in space_names(connection).items()
        }
        rows, current = sum(s.rows for s in spaces.values()), sum(s.current for s in spaces.values())
        (num_vectors,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
        (pending,) = connection.execute("SELECT count(*) FROM erasures").fetchone()
        seq, version = last_seq(connection), schema_version(connection)
    size = sum(path.stat().st_size for path in database.folder.iterdir() if path.is_file())
    return StoreStats(
        rows, current, rows - current, spaces, encoder, None if width is None else int(width), rows - num_vectors,
        pending, size, seq, version,
    )  # fmt: skip


def current_texts(connection: sqlite3.Connection) -> Iterator[list[tuple[int, int, str]]]:
    """Yield id, space and searchable text of all current rows in the order of ids, a batch at a time."""
    query = "SELECT id, space, key, text FROM rows WHERE superseded_by IS NULL AND id > ? ORDER BY id LIMIT ?"
    after = 0
    while batch := connection.execute(query, (after, BATCH)).fetchall():
        after = batch[-1][0]
        yield [(row_id, space, searchable(key, text)) for row_id, space, key, text in batch]


def rebuild_tables(connection: sqlite3.Connection) -> None:
    """Derive everything but rows and vectors again: versions, filters, full text and totals."""
    connection.execute(
        "UPDATE rows SET superseded_by = next FROM (SELECT id AS of, CASE WHEN key IS NULL THEN NULL ELSE "
        "lead(id) OVER (PARTITION BY space, key ORDER BY turn, id) END AS next FROM rows) "
        "WHERE id = of AND superseded_by IS NOT next"
    )
    connection.execute("DELETE FROM vectors WHERE id NOT IN (SELECT id FROM rows)")
    connection.execute("DELETE FROM facets")
    for row_id, space, metadata in connection.execute("SELECT id, space, metadata FROM rows WHERE metadata <> '{}'"):
        connection.executemany(
            "INSERT INTO facets VALUES (?, ?, ?, ?)",
            [(space, name, encode_json(value, name), row_id) for name, value in json.loads(metadata).items()],
        )
    rebuild_postings(connection)


def rebuild_postings(connection: sqlite3.Connection) -> None:
    """Derive full text and totals again; blocks that deletions have thinned out become full."""
    connection.execute("DELETE FROM postings")
    connection.execute("UPDATE spaces SET num_rows = 0, num_terms = 0")
    postings = PostingChanges()
    for batch in current_texts(connection):
        for row_id, space, text in batch:
            postings.add(space, row_id, text)
        postings.apply(connection)


def reencode(connection: sqlite3.Connection, encoder: Encoder) -> int:
    """Give every row a vector of `encoder`, superseded ones too, and return their number."""
    connection.execute("DELETE FROM vectors")
    connection.executemany(
        "INSERT OR REPLACE INTO settings VALUES (?, ?)",
        [("encoder", encoder.fingerprint), ("width", str(encoder.width))],
    )
    after, total = 0, 0
    while batch := connection.execute(
        "SELECT id, space, key, text, superseded_by FROM rows WHERE id > ? ORDER BY id LIMIT ?",
        (after, ENCODED_AT_ONCE),
    ).fetchall():
        after = batch[-1][0]
        vectors = encode_texts(encoder, [searchable(key, text) for _, _, key, text, _ in batch])
        for (row_id, space, _, _, superseded_by), vector in zip(batch, vectors, strict=True):
            connection.execute("INSERT INTO vectors VALUES (?, ?)", (row_id, encode_vector(vector)))
            if superseded_by is None:
                log_change(connection, "add", row_id, space)
        total += len(batch)
    connection.execute("DELETE FROM changes WHERE seq <= ?", (last_seq(connection) - KEPT_CHANGES,))
    return total


def compact_file(database: Database) -> None:
    """Give the space of deleted rows back to the disk. Needs room for a second copy while it runs.

    Raises:
        StateError: if the disk is full or another process does not let go in time.
    """
    with database.transaction() as connection:
        rebuild_postings(connection)
    with database.lock, database.errors():
        database.connection.execute("VACUUM")
        (busy, _, _) = database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StateError(f"{database.path} must not be read by others while it is compacted. Try again later.")


def large_spaces(database: Database, vectors: VectorSearch) -> Sequence[int]:
    """Return the spaces whose index has a file."""
    with database.snapshot() as connection:
        if read_setting(connection, "encoder") is None:
            return []
        return [number for number in space_names(connection).values() if vectors.is_large(connection, number)]


def index_ids_missing(wanted: np.ndarray, present: np.ndarray) -> tuple[int, int]:
    """Return how many ids are wanted and not present, and present and not wanted."""
    return len(np.setdiff1d(wanted, present)), len(present) - len(np.intersect1d(wanted, present))

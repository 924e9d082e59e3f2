"""The check of a store: every table and index against the rows that it was derived from."""

import json
import sqlite3
from collections.abc import Iterator

import numpy as np

from rhapsode.errors import StateError
from rhapsode.memory.store.checks import encode_json
from rhapsode.memory.store.database import Database, put_aside, recovery_command
from rhapsode.memory.store.maintenance import current_texts, index_ids_missing
from rhapsode.memory.store.postings import MAX_COUNT, decode
from rhapsode.memory.store.reading import read_width, space_names
from rhapsode.memory.store.vector_search import VectorSearch
from rhapsode.memory.store.vectors import read_current_ids, read_vectors
from rhapsode.memory.terms import count_terms

REBUILD = "Repair it with: rhapsode memory RUN rebuild"


def find_problems(database: Database, vectors: VectorSearch) -> list[str]:
    """Return one sentence for each thing that is wrong; nothing is changed. Cost O(bytes of the store)."""
    try:
        with database.snapshot() as connection:
            damage = [text for (text,) in connection.execute("PRAGMA integrity_check(10)") if text != "ok"]
            if not damage:
                return [*_find_disagreements(connection, vectors), *_kept_files(database)]
    except StateError as error:
        # some damage keeps the check itself from going on.
        if getattr(error.__cause__, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            return [str(error)]
        raise
    recover = recovery_command(database.folder)
    return [f"the database is damaged: {text}. Recover what can be read with: {recover}" for text in damage]


def _find_disagreements(connection: sqlite3.Connection, vectors: VectorSearch) -> Iterator[str]:
    yield from _loose_references(connection)
    yield from _wrong_versions(connection)
    yield from _wrong_text_index(connection)
    yield from _wrong_facets(connection)
    yield from _wrong_vectors(connection, vectors)
    yield from _pending_erasures(connection)


def _loose_references(connection: sqlite3.Connection) -> Iterator[str]:
    loose = len(connection.execute("PRAGMA foreign_key_check").fetchall())
    if loose:
        yield f"{loose} rows or vectors belong to nothing. {REBUILD}"


def _wrong_versions(connection: sqlite3.Connection) -> Iterator[str]:
    (wrong,) = connection.execute(
        "SELECT count(*) FROM (SELECT superseded_by, CASE WHEN key IS NULL THEN NULL ELSE lead(id) OVER "
        "(PARTITION BY space, key ORDER BY turn, id) END AS next FROM rows) WHERE superseded_by IS NOT next"
    ).fetchone()
    if wrong:
        yield f"{wrong} rows do not point to the next version of their key. {REBUILD}"


def _wrong_text_index(connection: sqlite3.Connection) -> Iterator[str]:
    wanted, present = 0, 0
    totals: dict[int, tuple[int, int]] = {}
    for batch in current_texts(connection):
        for row_id, space, text in batch:
            counts = count_terms(text)
            length = min(counts.total(), MAX_COUNT)
            num_rows, num_terms = totals.get(space, (0, 0))
            totals[space] = (num_rows + 1, num_terms + length)
            for term, count in counts.items():
                wanted += hash((space, term, row_id, min(count, MAX_COUNT), length))
    for space, term, first, block in connection.execute("SELECT * FROM postings"):
        for row_id, count, length in decode(first, block):
            present += hash((space, term, row_id, count, length))
    if wanted != present:
        yield f"the full-text index does not agree with the rows. {REBUILD}"
    stored = connection.execute("SELECT id, num_rows, num_terms FROM spaces").fetchall()
    if any((num_rows, num_terms) != totals.get(space, (0, 0)) for space, num_rows, num_terms in stored):
        yield f"the totals of the spaces do not agree with the rows. {REBUILD}"


def _wrong_facets(connection: sqlite3.Connection) -> Iterator[str]:
    wanted = {
        (space, name, encode_json(value, name), row_id)
        for row_id, space, metadata in connection.execute("SELECT id, space, metadata FROM rows WHERE metadata <> '{}'")
        for name, value in json.loads(metadata).items()
    }
    if wanted != set(connection.execute("SELECT space, name, value, id FROM facets")):
        yield f"the filters do not agree with the rows' metadata. {REBUILD}"


def _wrong_vectors(connection: sqlite3.Connection, vectors: VectorSearch) -> Iterator[str]:
    width = read_width(connection)
    wrong = sum(
        width is None or len(data) != 2 * width or not np.isfinite(np.frombuffer(data, dtype="<f2")).all()
        for (data,) in connection.execute("SELECT vector FROM vectors")
    )
    if wrong:
        # no index can be compared with them.
        yield f"{wrong} vectors are not of the store's width or not finite. {REBUILD} --reencode"
        return
    for name, space in space_names(connection).items():
        index = vectors.sync(connection, space)
        if index is not None:
            wanted, _ = read_vectors(connection, read_current_ids(connection, space), index.width)
            missing, orphans = index_ids_missing(wanted, index.ids())
            if missing or orphans:
                yield f"the vector index of space '{name}' lacks {missing} rows and has {orphans} too many. {REBUILD}"


def _kept_files(database: Database) -> Iterator[str]:
    for path in put_aside(database.folder):
        yield f"{path} may hold forgotten rows. Delete it when nothing more is to be recovered from it."


def _pending_erasures(connection: sqlite3.Connection) -> Iterator[str]:
    (pending,) = connection.execute("SELECT count(*) FROM erasures").fetchone()
    if pending:
        yield f"{pending} forgotten rows are still to be erased from the files. Close other readers and open it again."

"""Forgetting: rows are deleted in one transaction, then their bytes are removed from every file.

Deletion alone leaves bytes in three places: in the write-ahead log until it is emptied, in the gaps of database pages
(`sweep.py`), and in the file of the vector index. `finish_erasures` removes all three; until it has, the ids stand in
the table `erasures`, and every later forget and open tries again.
"""

import sqlite3
import time
from collections.abc import Sequence

import numpy as np

from rhapsode.errors import StateError, UserError
from rhapsode.memory.store.database import Database, connect, put_aside
from rhapsode.memory.store.index_files import erase_from_files
from rhapsode.memory.store.postings import PostingChanges
from rhapsode.memory.store.sweep import sweep
from rhapsode.memory.store.writing import GATHERED_ROWS, delete_facets, find_head, log_change, relink
from rhapsode.memory.terms import searchable

RETRY_S = 0.02


def delete_rows(connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    """Delete rows and all that is derived from them; return the older versions that are current again.

    The caller holds a write transaction.

    Raises:
        UserError: naming the first id that is not there; the caller's transaction rolls back.
    """
    postings = PostingChanges()
    keys: set[tuple[int, str]] = set()
    for row_id in dict.fromkeys(ids):
        found = connection.execute(
            "SELECT space, key, text, metadata, superseded_by FROM rows WHERE id = ?", (row_id,)
        ).fetchone()
        if found is None:
            raise UserError(
                f"id must be that of a row in memory; got {row_id}. List rows with: rhapsode memory RUN list"
            )
        space, key, text, metadata, superseded_by = found
        if superseded_by is None:
            postings.remove(space, row_id, searchable(key, text))
            log_change(connection, "drop", row_id, space)
        if key is not None:
            keys.add((space, key))
        delete_facets(connection, space, row_id, metadata)
        connection.execute("DELETE FROM rows WHERE id = ?", (row_id,))
        connection.execute("INSERT OR IGNORE INTO erasures VALUES (?)", (row_id,))
        if len(postings) >= GATHERED_ROWS:
            postings.apply(connection)
    restored = _restore_older(connection, keys, postings)
    postings.apply(connection)
    # the name of a space is text too, and goes with its last row.
    connection.execute(
        "DELETE FROM spaces WHERE name <> 'default' AND NOT EXISTS (SELECT 1 FROM rows WHERE space = spaces.id)"
    )
    return restored


def _restore_older(connection: sqlite3.Connection, keys: set[tuple[int, str]], postings: PostingChanges) -> list[int]:
    restored = []
    for space, key in sorted(keys):
        before = find_head(connection, space, key)
        relink(connection, space, key)
        after = find_head(connection, space, key)
        if after is not None and after != before:
            (text,) = connection.execute("SELECT text FROM rows WHERE id = ?", (after,)).fetchone()
            postings.add(space, after, searchable(key, text))
            log_change(connection, "add", after, space)
            restored.append(after)
    return restored


def has_erasures(connection: sqlite3.Connection) -> bool:
    """Return whether bytes of forgotten rows may be left."""
    (found,) = connection.execute("SELECT EXISTS (SELECT 1 FROM erasures)").fetchone()
    return bool(found)


def finish_erasures(database: Database, timeout_s: float) -> bool:
    """Remove the bytes of all forgotten rows from every file; return whether it was possible in time.

    A reader that still sees an older state keeps the log from being emptied, and what a recovery put aside is not
    touched: as long as it is there, nothing counts as erased. Cost: one read of the database file.
    """
    if put_aside(database.folder):
        return False
    try:
        return _finish_in_time(database, timeout_s)
    except StateError as error:
        raise StateError(
            f"{str(error).removesuffix(' Nothing was changed.')} What was forgotten is deleted; its bytes are erased "
            "when the memory is next opened for writing."
        ) from error


def _finish_in_time(database: Database, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    # a connection of its own: what it commits makes all others, this store's too, drop the pages they hold.
    with database.lock, database.errors():
        connection = connect(database.path, database.config, busy_timeout_s=RETRY_S)
        try:
            while not _try_to_finish(database, connection):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(RETRY_S)
            return True
        finally:
            connection.close()


def _try_to_finish(database: Database, connection: sqlite3.Connection) -> bool:
    try:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            return False
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return False
        raise
    try:
        if database.wal.exists() and database.wal.stat().st_size:
            # somebody wrote between the two statements.
            connection.execute("ROLLBACK")
            return False
        ids = np.array(connection.execute("SELECT id FROM erasures").fetchall(), dtype=np.int64).reshape(-1)
        spaces = {space for (space,) in connection.execute("SELECT id FROM spaces")}
        erase_from_files(database.folder, ids, spaces)
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        sweep(database.raw.descriptor, page_size)
        connection.execute("DELETE FROM erasures")
        # a commit that changes nothing would not tell the others to drop their pages.
        connection.execute("INSERT OR REPLACE INTO settings VALUES ('swept_at', ?)", (str(time.time()),))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True

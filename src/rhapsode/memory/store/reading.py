"""Rows out of the tables: by id, in order, by literal text."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rhapsode.errors import UserError, unknown_name
from rhapsode.memory.contracts import Change, Row
from rhapsode.memory.store.checks import check_unicode

PAGE = 1_000
"""Rows read in one snapshot: a listing that is never finished must not keep the log from being emptied."""
_COLUMNS = (
    "rows.id, text, key, source, spaces.name, metadata, provenance, created_at, version, superseded_by, "
    "iif(vectors.id IS NULL, NULL, (SELECT value FROM settings WHERE name = 'encoder'))"
)
_TABLES = "rows JOIN spaces ON spaces.id = rows.space LEFT JOIN vectors ON vectors.id = rows.id"
Condition = tuple[str, tuple[Any, ...]]
"""SQL on a row, and the values of its question marks."""
Snapshot = Callable[[], AbstractContextManager[sqlite3.Connection]]


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a setting of the store."""
    found = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def read_width(connection: sqlite3.Connection) -> int | None:
    """Return the width of the store's vectors; None while it has none."""
    width = read_setting(connection, "width")
    return None if width is None else int(width)


def last_seq(connection: sqlite3.Connection) -> int:
    """Return the number of the last change, even if the log has been shortened."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return int(found[0]) if found else 0


def space_names(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of each space by name."""
    return dict(connection.execute("SELECT name, id FROM spaces ORDER BY id"))


def find_space(connection: sqlite3.Connection, name: str) -> int:
    """Return a space's number.

    Raises:
        UserError: if there is none of this name.
    """
    found = connection.execute("SELECT id FROM spaces WHERE name = ?", (check_unicode(name, "space"),)).fetchone()
    if found is None:
        raise unknown_name("space", name, space_names(connection))
    return int(found[0])


def get_rows(connection: sqlite3.Connection, ids: Sequence[int]) -> list[Row]:
    """Return rows in the order of `ids`.

    Raises:
        UserError: naming the first id that is not there.
    """
    rows = get_rows_that_exist(connection, ids)
    if len(rows) < len(ids):
        found = {row.id for row in rows}
        for row_id in (row_id for row_id in ids if row_id not in found):
            raise UserError(
                f"id must be that of a row in memory; got {row_id}. List rows with: rhapsode memory RUN list"
            )
    return rows


def get_rows_that_exist(connection: sqlite3.Connection, ids: Sequence[int]) -> list[Row]:
    """Return rows in the order of `ids`, without those that are not there."""
    wanted = json.dumps([int(i) for i in ids])
    query = f"SELECT {_COLUMNS} FROM {_TABLES} WHERE rows.id IN (SELECT value FROM json_each(?))"
    found = {values[0]: make_row(values) for values in connection.execute(query, (wanted,))}
    return [found[row_id] for row_id in ids if row_id in found]


def make_row(values: Sequence[Any]) -> Row:
    """Build a row from what was selected with `_COLUMNS`."""
    row_id, text, key, source, space, metadata, provenance, created_at, version, superseded_by, encoder = values
    return Row(
        row_id, text, key, source, space, json.loads(metadata), json.loads(provenance), created_at, version,
        superseded_by, encoder,
    )  # fmt: skip


def iterate_rows(
    snapshot: Snapshot, conditions: Sequence[Condition], after_id: int, limit: int | None
) -> Iterator[Row]:
    """Yield rows in the order of their ids, a page a snapshot."""
    where = " AND ".join(["rows.id > ?", *(condition for condition, _ in conditions)])
    query = f"SELECT {_COLUMNS} FROM {_TABLES} WHERE {where} ORDER BY rows.id LIMIT ?"
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        with snapshot() as connection:
            found = connection.execute(
                query, (after_id, *(value for _, values in conditions for value in values), size)
            )
            page = [make_row(values) for values in found]
        yield from page
        if len(page) < size:
            return
        after_id = page[-1].id
        left = None if left is None else left - size


def match_ids(connection: sqlite3.Connection, text: str, space: int | None) -> list[int]:
    """Return the ids of all rows whose text, key or source contains `text`, letter case ignored. Cost O(bytes)."""
    wanted = text.casefold()
    query = (
        "SELECT id, text, coalesce(key, ''), coalesce(source, '') FROM rows WHERE ? IS NULL OR space = ? ORDER BY id"
    )
    return [
        row_id
        for row_id, *fields in connection.execute(query, (space, space))
        if any(wanted in field.casefold() for field in fields)
    ]


def read_changes(connection: sqlite3.Connection, after: int) -> list[Change]:
    """Return the changes after a seq.

    Raises:
        LookupError: if some of them have been removed from the log.
    """
    (first,) = connection.execute("SELECT min(seq) FROM changes").fetchone()
    if after < last_seq(connection) and (first is None or after + 1 < first):
        raise LookupError(f"the log begins at {first}, behind {after}")
    query = (
        "SELECT seq, op, changes.id, spaces.name FROM changes LEFT JOIN spaces ON spaces.id = changes.space "
        "WHERE seq > ? ORDER BY seq"
    )
    return [Change(*values) for values in connection.execute(query, (after,))]

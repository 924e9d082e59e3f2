"""Which rows are versions of one key, and which of them answers again when others are forgotten."""

import json
import sqlite3
from collections.abc import Sequence

from rhapsode.memory.store.reading import find_space
from rhapsode.memory.store.writing import hash_text

Chain = list[int]
"""Ids of all versions of one key in one space, oldest first."""


def find_versions(connection: sqlite3.Connection, keys: Sequence[str], space: str | None) -> Chain:
    """Return the ids of all rows that have one of these keys, letter for letter, in the order of ids.

    Raises:
        UserError: if there is no such space.
    """
    number = None if space is None else find_space(connection, space)
    spaces = [number] if number is not None else [i for (i,) in connection.execute("SELECT id FROM spaces")]
    return sorted({row_id for one in spaces for key in keys for row_id in _chain(connection, one, key)})


def add_versions(connection: sqlite3.Connection, ids: Sequence[int]) -> Chain:
    """Return `ids` with every other version of their keys, in the order of ids."""
    return sorted({*ids, *(row_id for chain in _chains(connection, ids) for row_id in chain)})


def restored_without(connection: sqlite3.Connection, ids: Sequence[int]) -> Chain:
    """Return the older versions that would answer again if `ids` were forgotten."""
    gone = set(ids)
    restored = []
    for chain in _chains(connection, ids):
        left = [row_id for row_id in chain if row_id not in gone]
        if chain[-1] in gone and left:
            restored.append(left[-1])
    return sorted(restored)


def _chains(connection: sqlite3.Connection, ids: Sequence[int]) -> list[Chain]:
    found = connection.execute(
        "SELECT DISTINCT space, key FROM rows WHERE key IS NOT NULL AND id IN (SELECT value FROM json_each(?))",
        (json.dumps([int(i) for i in ids]),),
    ).fetchall()
    return [_chain(connection, space, key) for space, key in found]


def _chain(connection: sqlite3.Connection, space: int, key: str) -> Chain:
    found = connection.execute(
        "SELECT id, key FROM rows WHERE space = ? AND key_hash = ? ORDER BY turn, id", (space, hash_text(key))
    ).fetchall()
    return [row_id for row_id, other in found if other == key]

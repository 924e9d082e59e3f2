"""The rows that a filter on metadata leaves, and what is counted among them alone."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from rhapsode.memory.store.checks import check_unicode, encode_json
from rhapsode.memory.store.postings import MAX_COUNT
from rhapsode.memory.terms import find_terms, searchable


@dataclass(frozen=True)
class Selection:
    """Current rows of a space: all that a filtered search knows of.

    Attributes:
        ids: sorted.
        num_terms: of all these rows, each counted as in the inverted index.
    """

    ids: Int64[np.ndarray, " A"]
    num_terms: int


class Selector:
    """Selects rows, and remembers the last selection: counting its terms costs O(bytes of its rows)."""

    def __init__(self) -> None:
        self._last: Selection | None = None

    def select(self, connection: sqlite3.Connection, space: int, where: Mapping[str, Any]) -> Selection:
        """Return the current rows of a space whose metadata has all of these values."""
        ids, last = filter_ids(connection, space, where), self._last
        # the text of a row never changes, so the ids are enough to know a selection by.
        if last is None or not np.array_equal(last.ids, ids):
            self._last = last = Selection(ids, _count_terms(connection, ids))
        return last


def filter_ids(connection: sqlite3.Connection, space: int, where: Mapping[str, Any]) -> Int64[np.ndarray, " A"]:
    """Return the sorted ids of the current rows of a space whose metadata has all of these values."""
    allowed: np.ndarray | None = None
    for name, value in where.items():
        # a cross join, so that SQLite begins with the filter and not with all rows of the space.
        found = connection.execute(
            "SELECT facets.id FROM facets CROSS JOIN rows ON rows.id = facets.id WHERE facets.space = ? AND name = ? "
            "AND value = ? AND superseded_by IS NULL ORDER BY facets.id",
            (space, *facet(name, value)),
        ).fetchall()
        ids = np.array(found, dtype=np.int64).reshape(-1)
        allowed = ids if allowed is None else np.intersect1d(allowed, ids, assume_unique=True)
    return np.empty(0, dtype=np.int64) if allowed is None else allowed


def facet(name: str, value: Any) -> tuple[str, str]:
    """Return a filter's name and value as they are stored. Raises UserError if it cannot be looked for."""
    what = f"where.{name}"
    return check_unicode(name, "where"), check_unicode(encode_json(value, what), what)


def _count_terms(connection: sqlite3.Connection, ids: Int64[np.ndarray, " A"]) -> int:
    rows = connection.execute(
        "SELECT key, text FROM rows WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids.tolist()),)
    )
    return sum(min(len(find_terms(searchable(key, text))), MAX_COUNT) for key, text in rows)

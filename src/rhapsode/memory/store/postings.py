"""The inverted index: which current rows hold which terms, in blocks that are read and changed as arrays.

A block is a sorted run of entries of one term in one space, stored under its smallest id at the time it was begun.
What is answered depends on the current rows only, never on how blocks came to be cut.
"""

import sqlite3
from collections import defaultdict

import numpy as np

from rhapsode.errors import StateError
from rhapsode.memory.terms import count_terms

ENTRY = np.dtype([("delta", "<u4"), ("count", "<u2"), ("length", "<u2")])
"""Row id minus the block's first; occurrences in the row; terms of the row; the last two saturate."""
BLOCK_ENTRIES = 120
"""So that a block of a term of usual length fits on its page, without overflow (SQLite keeps a quarter page inline)."""
MAX_COUNT = 2**16 - 1
MAX_DELTA = 2**32 - 1
MAX_ID = 2**63 - 1
Posting = tuple[int, int, int]
"""Id, count, length."""


class PostingChanges:
    """What a transaction adds to and removes from the index, gathered so that each block is written once."""

    def __init__(self) -> None:
        self._added: dict[tuple[int, int], str] = {}
        self._removed: dict[tuple[int, int], str] = {}

    def __len__(self) -> int:
        return len(self._added) + len(self._removed)

    def add(self, space: int, row_id: int, text: str) -> None:
        """Make a row findable by the terms of its text."""
        if self._removed.pop((space, row_id), None) is None:
            self._added[space, row_id] = text

    def remove(self, space: int, row_id: int, text: str) -> None:
        """Make a row unfindable; `text` is what it was added with."""
        if self._added.pop((space, row_id), None) is None:
            self._removed[space, row_id] = text

    def apply(self, connection: sqlite3.Connection) -> None:
        """Write everything gathered, with the totals of the spaces. Cost O(terms) blocks."""
        removals: dict[tuple[int, str], list[int]] = defaultdict(list)
        totals: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        for (space, row_id), text in self._removed.items():
            counts = count_terms(text)
            for term in counts:
                removals[space, term].append(row_id)
            totals[space][0] -= 1
            totals[space][1] -= min(counts.total(), MAX_COUNT)
        additions: dict[tuple[int, str], list[Posting]] = defaultdict(list)
        for (space, row_id), text in self._added.items():
            counts = count_terms(text)
            length = min(counts.total(), MAX_COUNT)
            for term, count in counts.items():
                additions[space, term].append((row_id, min(count, MAX_COUNT), length))
            totals[space][0] += 1
            totals[space][1] += length
        # in the order of the table, so that neighbours are changed while their page is at hand.
        for (space, term), ids in sorted(removals.items()):
            _remove(connection, space, term, sorted(ids))
        for (space, term), postings in sorted(additions.items()):
            _insert(connection, space, term, sorted(postings))
        connection.executemany(
            "UPDATE spaces SET num_rows = num_rows + ?, num_terms = num_terms + ? WHERE id = ?",
            [(num_rows, num_terms, space) for space, (num_rows, num_terms) in totals.items()],
        )
        self._added.clear()
        self._removed.clear()


def _block_of(connection: sqlite3.Connection, space: int, term: str, row_id: int) -> tuple[int, bytes] | None:
    """Return the block that holds `row_id` or would: the last that begins at or before it."""
    found: tuple[int, bytes] | None = connection.execute(
        "SELECT first, block FROM postings WHERE space = ? AND term = ? AND first <= ? ORDER BY first DESC LIMIT 1",
        (space, term, row_id),
    ).fetchone()
    return found


def _remove(connection: sqlite3.Connection, space: int, term: str, ids: list[int]) -> None:
    while ids:
        found = _block_of(connection, space, term, ids[0])
        if found is None or ids[0] > _last_id(*found):
            raise StateError(
                f"the full-text index must hold row {ids[0]}; it does not. Repair it with: rhapsode memory RUN rebuild"
            )
        first, block = found
        entries = np.frombuffer(block, dtype=ENTRY)
        here = [i for i in ids if i <= _last_id(first, block)]
        ids = ids[len(here) :]
        kept = entries[~np.isin(entries["delta"], np.array(here, dtype=np.int64) - first)]
        if len(kept):
            connection.execute(
                "UPDATE postings SET block = ? WHERE space = ? AND term = ? AND first = ?",
                (kept.tobytes(), space, term, first),
            )
        else:
            _delete_block(connection, space, term, first)


def _insert(connection: sqlite3.Connection, space: int, term: str, postings: list[Posting]) -> None:
    last = _block_of(connection, space, term, MAX_ID)
    if last is None or postings[0][0] > _last_id(*last):
        _append(connection, space, term, last, postings)
        return
    while postings:
        # an older version that is current again: its place is between blocks or inside one.
        found = _block_of(connection, space, term, postings[0][0])
        (bound,) = connection.execute(
            "SELECT min(first) FROM postings WHERE space = ? AND term = ? AND first > ?", (space, term, postings[0][0])
        ).fetchone()
        here = postings if bound is None else [posting for posting in postings if posting[0] < bound]
        postings = postings[len(here) :]
        if found is not None:
            _delete_block(connection, space, term, found[0])
            here = sorted([*decode(*found), *here])
        _write_blocks(connection, space, term, here)


def _append(
    connection: sqlite3.Connection, space: int, term: str, last: tuple[int, bytes] | None, postings: list[Posting]
) -> None:
    """Put entries behind the last block, filling it up first; full blocks are left as they are."""
    if last is not None and len(last[1]) < BLOCK_ENTRIES * ENTRY.itemsize:
        first, block = last
        free = BLOCK_ENTRIES - len(block) // ENTRY.itemsize
        fitting = [posting for posting in postings[:free] if posting[0] - first <= MAX_DELTA]
        if fitting:
            connection.execute(
                "UPDATE postings SET block = ? WHERE space = ? AND term = ? AND first = ?",
                (block + _encode_block(first, fitting), space, term, first),
            )
            postings = postings[len(fitting) :]
    _write_blocks(connection, space, term, postings)


def _delete_block(connection: sqlite3.Connection, space: int, term: str, first: int) -> None:
    connection.execute("DELETE FROM postings WHERE space = ? AND term = ? AND first = ?", (space, term, first))


def _write_blocks(connection: sqlite3.Connection, space: int, term: str, postings: list[Posting]) -> None:
    while postings:
        first = postings[0][0]
        block = [posting for posting in postings[:BLOCK_ENTRIES] if posting[0] - first <= MAX_DELTA]
        connection.execute(
            "INSERT INTO postings VALUES (?, ?, ?, ?)", (space, term, first, _encode_block(first, block))
        )
        postings = postings[len(block) :]


def _encode_block(first: int, postings: list[Posting]) -> bytes:
    return np.array([(i - first, count, length) for i, count, length in postings], dtype=ENTRY).tobytes()


def _last_id(first: int, block: bytes) -> int:
    return first + int(np.frombuffer(block[-ENTRY.itemsize :], dtype=ENTRY)["delta"][0])


def decode(first: int, block: bytes) -> list[Posting]:
    """Return the entries of one block."""
    return [(first + delta, count, length) for delta, count, length in np.frombuffer(block, dtype=ENTRY).tolist()]

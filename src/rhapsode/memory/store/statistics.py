"""Counts and samples of the current rows of a space, for what has to judge how telling a word or a score is."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from rhapsode.memory.store.filtering import filter_ids
from rhapsode.memory.store.text_search import count_postings, count_postings_among
from rhapsode.memory.terms import find_terms


def count_rows(connection: sqlite3.Connection, space: int, where: Mapping[str, Any] | None = None) -> int:
    """Return the number of current rows, or of those with this metadata."""
    if where:
        return len(filter_ids(connection, space, where))
    (count,) = connection.execute("SELECT num_rows FROM spaces WHERE id = ?", (space,)).fetchone()
    return int(count)


def document_frequencies(
    connection: sqlite3.Connection, space: int, words: Sequence[str], where: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Return how many current rows, or how many of those with this metadata, hold each word in key or text.

    A word that full-text search knows as several terms counts as its rarest; one without any counts 0. Cost
    O(rows that hold the words / 100), behind a filter O(rows that hold the words).
    """
    terms = {word: sorted(set(find_terms(word))) for word in words}
    wanted = sorted({term for split in terms.values() for term in split})
    if where:
        found = count_postings_among(connection, space, wanted, filter_ids(connection, space, where))
    else:
        found = count_postings(connection, space, wanted)
    return {word: min((found.get(term, 0) for term in split), default=0) for word, split in terms.items()}


def sample_ids(connection: sqlite3.Connection, space: int, count: int) -> list[int]:
    """Return the ids of up to `count` current rows, chosen by the hashes of their keys, or of texts without a key.

    Hashes have nothing to do with what is in a row, so this is as good as a random sample; and it depends on the rows
    alone, not on their ids or their history. Cost O(count + superseded rows).
    """
    chosen: list[tuple[int, int]] = []
    for hashed, condition in (
        ("text_hash", "key_hash = 0"),
        ("key_hash", "key_hash < 0"),
        ("key_hash", "key_hash > 0"),
    ):
        chosen += connection.execute(
            f"SELECT {hashed}, id FROM rows WHERE space = ? AND {condition} AND superseded_by IS NULL "
            "ORDER BY key_hash, text_hash, id LIMIT ?",
            (space, count),
        )
    return [row_id for _, row_id in sorted(chosen)[:count]]

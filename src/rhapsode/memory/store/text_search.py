"""BM25 over the inverted index (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework").

    score(row) = sum over terms t of  idf(t) c (k1 + 1) / (c + k1 (1 - b + b length / mean length))
    idf(t)     = ln(1 + (N - n + 0.5) / (n + 0.5))

c is how often t stands in the row, n in how many of the N rows of the space it stands. A word in more than a tenth of
a large space is left out when the query has a rarer word that matches: it says little and costs most. Behind a filter,
all of this is counted among the rows that it leaves, so that no other row changes a score.
"""

import sqlite3
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from rhapsode.memory.config import StoreConfig
from rhapsode.memory.store.filtering import Selection
from rhapsode.memory.store.postings import ENTRY

MAX_VARIABLES = 500
SPARSE = 8
"""Ids are summed in a table as long as their range, unless that is this many times as long as there are entries."""
Scores = tuple[Int64[np.ndarray, " N"], Float64[np.ndarray, " N"]]
Best = tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]


def search_text(
    connection: sqlite3.Connection,
    space: int,
    terms: Sequence[str],
    config: StoreConfig,
    selection: Selection | None = None,
) -> Scores:
    """Return ids and scores of all rows of a space that hold a term, in the order of ids; see `take_best`.

    Args:
        terms: of the query; repetitions count once.
        selection: the only rows that may answer; counting among them reads common words too.
    """
    wanted = sorted(set(terms))
    if selection is None:
        total = "SELECT num_rows, num_terms FROM spaces WHERE id = ?"
        num_rows, num_terms = connection.execute(total, (space,)).fetchone()
        frequencies = count_postings(connection, space, wanted)
    else:
        num_rows, num_terms = len(selection.ids), selection.num_terms
        frequencies = count_postings_among(connection, space, wanted, selection.ids)
    common = max(config.common_min, config.common_share * num_rows)
    rare = {term: n for term, n in frequencies.items() if n <= common}
    parts_ids, parts_scores = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for term, frequency in sorted((rare or frequencies).items()):
        ids, entries = _read_postings(connection, space, term, None if selection is None else selection.ids)
        idf = np.log1p((num_rows - frequency + 0.5) / (frequency + 0.5))
        count = entries["count"].astype(np.float64)
        norm = 1 - config.bm25_b + config.bm25_b * entries["length"] / (num_terms / num_rows)
        parts_ids.append(ids)
        parts_scores.append(idf * count * (config.bm25_k1 + 1) / (count + config.bm25_k1 * norm))
    return _sum_by_id(np.concatenate(parts_ids), np.concatenate(parts_scores))


def take_best(ids: Int64[np.ndarray, " N"], scores: Float64[np.ndarray, " N"], k: int) -> Best:
    """Return the k best, best first, then by id. Cost O(N)."""
    if k < len(ids):
        keep = scores >= np.partition(scores, len(ids) - k)[len(ids) - k]
        ids, scores = ids[keep], scores[keep]
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def _sum_by_id(ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids in order, and the sum of the scores of each; scores are above 0."""
    if not len(ids):
        return ids, scores
    first = ids.min()
    if ids.max() - first < SPARSE * len(ids):
        table = np.bincount(ids - first, weights=scores)
        places = np.flatnonzero(table)
        return places + first, table[places]
    distinct, place = np.unique(ids, return_inverse=True)
    return distinct, np.bincount(place, weights=scores)


def count_postings(connection: sqlite3.Connection, space: int, terms: Sequence[str]) -> dict[str, int]:
    """Return how many current rows of a space hold each term; a term that none holds is left out."""
    found: dict[str, int] = {}
    for start in range(0, len(terms), MAX_VARIABLES):
        part = terms[start : start + MAX_VARIABLES]
        found.update(
            connection.execute(
                f"SELECT term, sum(length(block)) / {ENTRY.itemsize} FROM postings "
                f"WHERE space = ? AND term IN ({', '.join('?' * len(part))}) GROUP BY term",
                (space, *part),
            )
        )
    return found


def count_postings_among(
    connection: sqlite3.Connection, space: int, terms: Sequence[str], allowed: Int64[np.ndarray, " A"]
) -> dict[str, int]:
    """Return what `count_postings` does, for the rows in `allowed` alone. Cost O(rows that hold the terms)."""
    counts = {term: len(_read_postings(connection, space, term, allowed)[0]) for term in terms}
    return {term: count for term, count in counts.items() if count}


def _read_postings(
    connection: sqlite3.Connection, space: int, term: str, allowed: Int64[np.ndarray, " A"] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a term's rows and its entries, of the rows in `allowed` if it is given."""
    blocks = connection.execute(
        "SELECT first, block FROM postings WHERE space = ? AND term = ? ORDER BY first", (space, term)
    ).fetchall()
    entries = np.frombuffer(b"".join(block for _, block in blocks), dtype=ENTRY)
    firsts = np.array([first for first, _ in blocks], dtype=np.int64)
    sizes = np.array([len(block) for _, block in blocks], dtype=np.int64) // ENTRY.itemsize
    ids = np.repeat(firsts, sizes) + entries["delta"]
    if allowed is None:
        return ids, entries
    keep = np.isin(ids, allowed, assume_unique=True)
    return ids[keep], entries[keep]

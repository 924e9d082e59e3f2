"""N-grams by hash: what came after the last ids, at several lengths, in arrays of fixed size.

A cell holds the hash of a context, the id that followed, and votes for it. Two policies: `recent` keeps the latest id
and counts how often in a row it came; else the majority vote of Boyer and Moore (1981) keeps the id that more than half
of the occurrences agree on, if there is one. Full stretches are overwritten, so that a table never grows.

The Kneser-Ney trie of `memory` gives a whole distribution; a draft needs one id and a reason to believe in it, and
needs it in a microsecond.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt64

ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Lengths of context that are indexed."""
MAX_ORDER = ORDERS[-1]


class NgramTable(NamedTuple):
    """Cells of one source; S is a power of two. Changed in place by `kernels.learn`. 16 bytes a cell."""

    keys: UInt64[np.ndarray, " S"]
    """Hash of the context and its length; 0 where free."""
    ids: Int32[np.ndarray, " S"]
    """What followed."""
    votes: Int32[np.ndarray, " S"]
    """At least 1 where taken."""


def make_table(num_cells: int) -> NgramTable:
    """Return an empty table of at least `num_cells` cells."""
    size = 1 << max(4, (num_cells - 1).bit_length())
    return NgramTable(np.zeros(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int32))


def build_table(ids: Integer[np.ndarray, " N"], max_ids: int = 1 << 20) -> NgramTable:
    """Index a text by majority.

    Args:
        ids: of a text that is longer than `max_ids`, evenly spread stretches are indexed.

    Returns:
        at most 16 x 2^24 bytes. Cost O(N), about 0.6 s for a million ids.
    """
    from rhapsode.generation.drafting.kernels import learn

    ids = _thin(ids, max_ids)
    table = make_table(min(1 << 24, len(ids) * len(ORDERS)))
    learn(table, ids, 0, len(ids), False)
    return table


def _thin(ids: Integer[np.ndarray, " N"], max_ids: int, stretch: int = 4096) -> Int64[np.ndarray, " M"]:
    if len(ids) <= max_ids:
        return ids.astype(np.int64)
    starts = np.linspace(0, len(ids) - stretch, max(1, max_ids // stretch)).astype(np.int64)
    return np.concatenate([ids[start : start + stretch] for start in starts]).astype(np.int64)

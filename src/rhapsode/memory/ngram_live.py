"""The n-gram counts of rows that come and go: a trie in growing arrays, found through a hash table.

A node that no row holds any more keeps its place with counts of 0 until the trie is built anew; nothing reads it.

Shape letters: G nodes with room, S slots.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from rhapsode.memory.ngram_base import NgramBase

# slots are twice the nodes or more, so that a lookup meets few others.
_SLOTS_A_NODE = 2


class LiveCounts(NamedTuple):
    """The arrays of a live trie; node 0 is the empty n-gram. Changed in place by `ngram_kernels`."""

    slots: Int32[np.ndarray, " S"]
    """Hash table of (parent, token), linear probing; -1 where free. S is a power of two."""
    parents: Int32[np.ndarray, " G"]
    tokens: Int32[np.ndarray, " G"]
    base_nodes: Int32[np.ndarray, " G"]
    """The node of the same n-gram in the base, or -1."""
    occurrences: Int32[np.ndarray, " G"]
    """How often rows hold the n-gram; 0 for a node that none holds any more."""
    new_neighbours: Int32[np.ndarray, " G"]
    """Distinct ids to the left in rows that are not to the left in the base; the start of a row is one."""
    stats: Int32[np.ndarray, "G 4"]
    """Of a node's children, base and rows together: sum of counts, and how many count 1, 2, 3 or more."""
    first_children: Int32[np.ndarray, " G"]
    siblings: Int32[np.ndarray, " G"]
    """The next child of the same parent, in no order; -1 after the last."""
    sizes: Int64[np.ndarray, "2"]
    """Nodes in use, the root included; and how many of them no row holds."""

    @property
    def num_nodes(self) -> int:
        """Nodes in use."""
        return int(self.sizes[0])

    @property
    def num_dead(self) -> int:
        """Nodes in use that no row holds."""
        return int(self.sizes[1])

    @property
    def capacity(self) -> int:
        """Nodes there is room for."""
        return len(self.parents)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self)


def make_live_counts(base: NgramBase, capacity: int = 64) -> LiveCounts:
    """Return the trie of no rows."""
    live = _allocate(capacity)
    live.sizes[:] = 1, 0
    live.first_children[0] = live.siblings[0] = -1
    live.parents[0] = live.tokens[0] = -1
    live.occurrences[0] = 1
    from rhapsode.memory.ngram_kernels import fill_stats

    fill_stats(base, live, 0, 0)
    return live


def grow(live: LiveCounts, num_new: int) -> LiveCounts:
    """Return a trie of the same counts with room for `num_new` more nodes: the same one if it has it."""
    needed = live.num_nodes + num_new
    if needed <= live.capacity:
        return live
    # half as much again: many small rows cost a constant a node.
    larger = _allocate(needed + live.num_nodes // 2)
    for old, new in zip(live[1:-1], larger[1:-1], strict=True):
        new[: live.num_nodes] = old[: live.num_nodes]
    larger.sizes[:] = live.sizes
    from rhapsode.memory.ngram_kernels import fill_slots

    fill_slots(larger)
    return larger


def _allocate(capacity: int) -> LiveCounts:
    num_slots = 1 << (_SLOTS_A_NODE * capacity - 1).bit_length()
    slots = np.full(num_slots, -1, dtype=np.int32)
    parents, tokens, base_nodes, occurrences, new_neighbours, first_children, siblings = (
        np.zeros(capacity, dtype=np.int32) for _ in range(7)
    )
    return LiveCounts(
        slots,
        parents,
        tokens,
        base_nodes,
        occurrences,
        new_neighbours,
        np.zeros((capacity, 4), dtype=np.int32),
        first_children,
        siblings,
        np.zeros(2, dtype=np.int64),
    )

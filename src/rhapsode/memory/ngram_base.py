"""The n-gram counts of a text that does not change, as a trie in five flat arrays.

Node 0 is the empty n-gram. The others follow by length and, within a length, in the order of their prefixes and last
ids, so that the children of a node are neighbours and those of neighbours follow each other: one array of first
children holds the whole tree. A lookup searches only among a node's own children.

Shape letters: G nodes, I inner nodes (shorter than the order), C vocabulary.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Integer

from rhapsode.errors import StateError, UserError
from rhapsode.memory.kneser_ney import FALLBACK_DISCOUNTS, estimate_discounts
from rhapsode.memory.ngram_counts import check_ids, check_vocab_size, count_ngrams
from rhapsode.memory.token_files import read_arrays, write_arrays


class NgramBase(NamedTuple):
    """Kneser-Ney counts of a text, with what turns them into probabilities. Arrays are not to be written to."""

    first_children: Int32[np.ndarray, " I_plus_1"]
    """The children of node g are the nodes from `first_children[g]` to before `first_children[g + 1]`."""
    tokens: Int32[np.ndarray, " G"]
    """The last id of each n-gram, ascending among the children of a node; -1 for the root."""
    counts: Int32[np.ndarray, " G"]
    """As in `ngram_counts`: occurrences at the highest order, distinct ids to the left below it."""
    totals: Int32[np.ndarray, " I"]
    """Sum of the counts of a node's children."""
    weights: Float64[np.ndarray, " I"]
    """What a context gives to the order below; 1 where the total is 0."""
    discounts: Float64[np.ndarray, "order 4"]
    """By the length of the context and min(count, 3); held fixed while rows come and go."""

    @property
    def order(self) -> int:
        """The longest n-gram."""
        return len(self.discounts)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self)


def build_ngram_base(ids: Integer[np.ndarray, " N"], vocab_size: int, order: int) -> NgramBase:
    """Count `ids`, which may be none: then all discounts are the fallback ones.

    Returns:
        The same model as `KneserNey.fit`, laid out to be walked. Cost O(order N log N) time, 8 bytes for each distinct
        n-gram of the highest order and 24 for each of the others.

    Raises:
        UserError: if a value is out of range.
    """
    _check_order(order)
    check_vocab_size(vocab_size)
    check_ids(ids, vocab_size)
    if len(ids) == 0:
        return no_ngrams(order)
    levels = count_ngrams(ids, vocab_size, order)
    sizes = [1, *(len(level.keys) for level in levels)]
    offsets = np.cumsum([0, *sizes])
    num_inner = int(offsets[min(order, len(sizes))])
    num_children = np.zeros(num_inner, dtype=np.int64)
    by_count = np.zeros((num_inner, 4), dtype=np.int64)
    totals = np.zeros(num_inner, dtype=np.int64)
    discounts = np.tile(FALLBACK_DISCOUNTS["modified"], (order, 1))
    for length, level in enumerate(levels):
        prefixes = level.prefixes()
        inner = slice(int(offsets[length]), int(offsets[length + 1]))
        size = inner.stop - inner.start
        num_children[inner] = np.bincount(prefixes, minlength=size)
        totals[inner] = np.bincount(prefixes, weights=level.counts, minlength=size)
        discounts[length] = estimate_discounts(level.counts)
        for count in (1, 2, 3):
            chosen = level.counts == count if count < 3 else level.counts >= 3
            by_count[inner, count] = np.bincount(prefixes[chosen], minlength=size)
    tokens = np.concatenate([[-1], *(level.keys % vocab_size for level in levels)]).astype(np.int32)
    counts = np.concatenate([[0], *(level.counts for level in levels)]).astype(np.int32)
    first_children = np.concatenate([[0], np.cumsum(num_children)]) + 1
    kept_back = _kept_back(by_count, np.repeat(discounts[: len(sizes)], sizes[:order], axis=0)[:num_inner])
    weights = np.divide(kept_back, totals, out=np.ones(num_inner), where=totals > 0)
    return NgramBase(first_children.astype(np.int32), tokens, counts, totals.astype(np.int32), weights, discounts)


def no_ngrams(order: int, discounts: Float64[np.ndarray, "order 4"] | None = None) -> NgramBase:
    """Return the base of no text, with given or the fallback discounts.

    Raises:
        UserError: if the order is less than 1, or the discounts are not of that order and above 0.
    """
    _check_order(order)
    if discounts is None:
        discounts = np.tile(FALLBACK_DISCOUNTS["modified"], (order, 1))
    if discounts.shape != (order, 4) or not bool((discounts[:, 1:] > 0).all()):
        raise UserError(f"discounts must be {order} x 4 and above 0 but for the first of each order; got others.")
    none = np.zeros(1, dtype=np.int32)
    return NgramBase(np.ones(2, dtype=np.int32), none - 1, none, none, np.ones(1), discounts)


def save_ngram_base(path: Path, base: NgramBase) -> None:
    """Write a base as one safetensors file, atomically. Equal bases give equal bytes.

    Raises:
        StateError: if the file cannot be written.
    """
    write_arrays(path, base._asdict())


def load_ngram_base(path: Path) -> NgramBase:
    """Read what `save_ngram_base` wrote.

    Raises:
        StateError: if the file is missing or damaged.
    """
    arrays = read_arrays(path, NgramBase._fields)
    base = NgramBase(**arrays)
    sizes_agree = (
        len(base.counts) == len(base.tokens) > 0
        and len(base.totals) == len(base.weights) == len(base.first_children) - 1 > 0
        and base.discounts.ndim == 2
        and base.discounts.shape[1] == 4
    )
    # compiled code trusts these: a wrong child would be read from beyond an array.
    if (
        not sizes_agree
        or base.first_children[-1] != len(base.tokens)
        or (np.diff(base.first_children) < 0).any()
        or base.first_children[0] != 1
    ):
        raise StateError(f"{path} must hold n-gram counts, but it is damaged. Count the training text again.")
    return base


def _check_order(order: int) -> None:
    if order < 1:
        raise UserError(f"order must be at least 1; got {order}.")


def _kept_back(by_count: np.ndarray, discounts: np.ndarray) -> np.ndarray:
    # the same three products in the same order as the kernels, so that both round alike.
    kept: np.ndarray = discounts[:, 1] * by_count[:, 1]
    kept += discounts[:, 2] * by_count[:, 2]
    kept += discounts[:, 3] * by_count[:, 3]
    return kept

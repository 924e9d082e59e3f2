"""Interpolated Kneser-Ney: the n-gram language model that every learned memory has to beat.

For a context h of n - 1 ids and h' the same without its first id,

    p_n(w | h) = max(c_n(h w) - D_n(c), 0) / c_n(h .)  +  gamma_n(h) p_{n-1}(w | h')
    gamma_n(h) = sum over w of D_n(c_n(h w)) / c_n(h .)

where c_n counts occurrences at the highest order and, below it, distinct ids to the left; a context never seen passes
p_{n-1} on unchanged; and p_0 is uniform, so that every id has a probability above 0.

Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; Chen and Goodman 1998, "An empirical study of
smoothing techniques for language modeling" (TR-10-98), for interpolation and the three discounts per order.

Shape letters: N ids, C vocabulary, U n-grams of one order, P contexts of one order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, Integer

from rhapsode.errors import UserError, unknown_name
from rhapsode.memory.ngram_counts import (
    ROOT,
    NgramLevel,
    check_ids,
    check_not_empty,
    check_vocab_size,
    count_ngrams,
)

DISCOUNTINGS = ("modified", "absolute")
FALLBACK_DISCOUNTS = {"modified": (0.0, 0.5, 1.0, 1.5), "absolute": (0.0, 0.5, 0.5, 0.5)}
"""Used for an order whose counts of counts cannot estimate them, as in a tiny or repeated text."""


def default_order(tokenizer_kind: str) -> int:
    """Return the n-gram order for a tokenizer: 8 where an id is a character or a byte, else 5.

    >>> default_order("bytes"), default_order("bpe")
    (8, 5)
    """
    return 8 if tokenizer_kind in ("chars", "bytes") else 5


def estimate_discounts(counts: Integer[np.ndarray, " U"], discounting: str = "modified") -> Float64[np.ndarray, "4"]:
    """Estimate what to subtract from counts of 0, 1, 2 and 3 or more, from how many n-grams have each count.

    With n_j the number of n-grams counted j times and Y = n_1 / (n_1 + 2 n_2): `absolute` takes Y for all
    counts, `modified` takes D_j = j - (j + 1) Y n_{j+1} / n_j. Where an n_j is 0 or a D_j falls outside (0, j], the
    order takes `FALLBACK_DISCOUNTS`: a discount of 0 would leave nothing for unseen ids.

    Returns:
        Discounts by min(count, 3), the first of them 0. Cost O(U).
    """
    number = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    needed = number[1:5] if discounting == "modified" else number[1:3]
    fallback = np.array(FALLBACK_DISCOUNTS[discounting])
    if not needed.all():
        return fallback
    share = number[1] / (number[1] + 2 * number[2])
    if discounting == "absolute":
        return np.array([0.0, share, share, share])
    seen = np.arange(1, 4)
    discounts = seen - (seen + 1) * share * number[2:5] / number[1:4]
    return np.concatenate([[0.0], discounts]) if (discounts > 0).all() else fallback


@dataclass(frozen=True)
class _SmoothedLevel:
    """One order's counts with what turns them into probabilities."""

    ngrams: NgramLevel
    discounts: Float64[np.ndarray, "4"]
    totals: Int32[np.ndarray, " P"]
    """Sum of the counts of a context's children; 0 for a context seen only at the end of the text."""
    weights: Float64[np.ndarray, " P"]
    """gamma: what a context gives to the order below; 1 where the total is 0."""

    @property
    def size_bytes(self) -> int:
        return self.ngrams.size_bytes + self.discounts.nbytes + self.totals.nbytes + self.weights.nbytes

    def discounted(
        self, rows: Int64[np.ndarray, " Q"] | slice, totals: Integer[np.ndarray, " Q"] | int
    ) -> Float64[np.ndarray, " Q"]:
        """Return (c - D) / total for n-grams by row."""
        counts = self.ngrams.counts[rows]
        mass: Float64[np.ndarray, " Q"] = (counts - self.discounts[np.minimum(counts, 3)]) / totals
        return mass


def _smooth(ngrams: NgramLevel, num_contexts: int, discounting: str) -> _SmoothedLevel:
    discounts = estimate_discounts(ngrams.counts, discounting)
    prefixes = ngrams.prefixes()
    # float64 sums of int32 counts are exact.
    totals = np.bincount(prefixes, weights=ngrams.counts, minlength=num_contexts)
    kept_back = np.bincount(prefixes, weights=discounts[np.minimum(ngrams.counts, 3)], minlength=num_contexts)
    weights = np.divide(kept_back, totals, out=np.ones(num_contexts), where=totals > 0)
    return _SmoothedLevel(ngrams, discounts, totals.astype(np.int32), weights)


class KneserNey:
    """Interpolated Kneser-Ney over token ids; immutable once fitted.

    It is a pure function of the ids: all floats are derived from the integer counts of `ngram_counts`.

    >>> model = KneserNey.fit(np.frombuffer(b"abracadabra", dtype=np.uint8), vocab_size=256, order=4)
    >>> log_probabilities, match_length = model.predict(np.frombuffer(b"cabr", dtype=np.uint8))
    >>> chr(log_probabilities.argmax()), match_length
    ('a', 3)
    """

    def __init__(self, levels: tuple[_SmoothedLevel, ...], vocab_size: int, order: int) -> None:
        """Use `fit`; this stores its result."""
        self.vocab_size = vocab_size
        self.order = order
        self._levels = levels
        lowest = levels[0]
        unigram = np.full(vocab_size, lowest.weights[ROOT] / vocab_size)
        unigram[lowest.ngrams.keys] += lowest.discounted(slice(None), int(lowest.totals[ROOT]))
        self._unigram: Float64[np.ndarray, " C"] = unigram

    @classmethod
    def fit(
        cls, ids: Integer[np.ndarray, " N"], vocab_size: int, order: int, discounting: str = "modified"
    ) -> "KneserNey":
        """Count the n-grams of `ids` and estimate the discounts.

        Args:
            ids: token ids, at least one; document marks are ordinary ids.
            vocab_size: C, above every id.
            order: the longest n-gram, at least 1; `default_order` suggests one.
            discounting: `modified` (three discounts per order; measured better) or `absolute` (one).

        Returns:
            The model. Cost O(order N log N) time; 12 bytes for each distinct n-gram of the highest order and
            24 for each of the others.

        Raises:
            UserError: if a value is out of range or there are no ids.
        """
        if order < 1:
            raise UserError(f"order must be at least 1; got {order}.")
        if discounting not in DISCOUNTINGS:
            raise unknown_name("discounting", discounting, DISCOUNTINGS)
        check_vocab_size(vocab_size)
        check_not_empty(ids)
        check_ids(ids, vocab_size)
        tables = count_ngrams(ids, vocab_size, order)
        num_contexts = [1, *(len(table.keys) for table in tables[:-1])]
        levels = tuple(_smooth(t, p, discounting) for t, p in zip(tables, num_contexts, strict=True))
        return cls(levels, vocab_size, order)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return self._unigram.nbytes + sum(level.size_bytes for level in self._levels)

    @property
    def num_ngrams(self) -> tuple[int, ...]:
        """Number of distinct n-grams of each order, from 1; shorter than `order` if the text was."""
        return tuple(len(level.ngrams.keys) for level in self._levels)

    @property
    def discounts(self) -> tuple[tuple[float, ...], ...]:
        """The discounts of counts 1, 2 and 3 or more, of each order from 1."""
        return tuple(tuple(level.discounts[1:].tolist()) for level in self._levels)

    def log_prob(self, ids: Integer[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Return the natural-log probability of each id given the up to `order - 1` ids before it.

        The first id has no context and gets the probability of order 1.

        Args:
            ids: token ids; may be empty.

        Returns:
            Always finite. Cost O(order N log N) time.

        Raises:
            UserError: if an id is outside the vocabulary.
        """
        return self.score(ids)[0]

    def score(self, ids: Integer[np.ndarray, " N"]) -> tuple[Float64[np.ndarray, " N"], Int32[np.ndarray, " N"]]:
        """Return `log_prob`, and for each id the length of the longest seen context before it.

        The same two figures as `predict` gives position by position; a gate reads the lengths.

        Raises:
            UserError: if an id is outside the vocabulary.
        """
        check_ids(ids, self.vocab_size)
        ids = ids.astype(np.int32, copy=False)
        probabilities = np.full(len(ids), 1 / self.vocab_size)
        match_lengths = np.zeros(len(ids), dtype=np.int32)
        at = np.arange(len(ids))
        contexts = np.full(len(ids), ROOT)
        for length, level in enumerate(self._levels):
            rows = level.ngrams.find(contexts, ids[at])
            totals = level.totals[contexts]
            mixed = probabilities[at] * level.weights[contexts]
            hit = rows >= 0
            mixed[hit] += level.discounted(rows[hit], totals[hit])
            probabilities[at] = mixed
            match_lengths[at[totals > 0]] = length
            # only a seen n-gram can be the context of the next id at the next order.
            followed = hit & (at + 1 < len(ids))
            at, contexts = at[followed] + 1, rows[followed]
        return np.log(probabilities), match_lengths

    def predict(self, context: Integer[np.ndarray, " N"]) -> tuple[Float64[np.ndarray, " C"], int]:
        """Return the distribution of the next id and the length of the longest seen context.

        Args:
            context: the ids so far; the last `order - 1` are read.

        Returns:
            Natural-log probabilities, all finite, whose exponentials sum to 1; and 0 to `order - 1`. Cost
            O(order^2 log U + order C).

        Raises:
            UserError: if one of the ids read is outside the vocabulary.
        """
        tail = context[max(0, len(context) - self.order + 1) :]
        check_ids(tail, self.vocab_size, "context")
        nodes: tuple[int, ...] = (ROOT,)
        for token in tail.tolist():
            nodes = self._advance(nodes, token)
        probabilities = self._unigram.copy()
        match_length = 0
        for length, node in enumerate(nodes[1:], start=1):
            level = self._levels[length]
            total = int(level.totals[node])
            if total == 0:
                break
            rows = level.ngrams.children(node)
            probabilities *= level.weights[node]
            probabilities[level.ngrams.keys[rows] - node * self.vocab_size] += level.discounted(rows, total)
            match_length = length
        return np.log(probabilities), match_length

    def _advance(self, nodes: tuple[int, ...], token: int) -> tuple[int, ...]:
        """Return the nodes of the contexts of length 0, 1, ... after `token`, given those before it.

        The tuple is a complete, immutable state for decoding one id at a time.
        """
        longer = [ROOT]
        for length, node in zip(range(len(self._levels) - 1), nodes, strict=False):
            found = self._levels[length].ngrams.child(node, token)
            if found < 0:
                # what was never seen was never seen with more before it.
                break
            longer.append(found)
        return tuple(longer)

"""Windows of tokens: shuffled for training, sliding for evaluation.

Shape letters: B batch, T tokens.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from rhapsode.errors import UserError
from rhapsode.text.shards import TokenArray


class Batch:
    """B windows of T tokens and what follows each token.

    Attributes:
        inputs: int64 (B, T).
        targets: int64 (B, T), the inputs moved by one.
        segments: int32 (B, T), the number of the document within its window, from 0; worked out when first asked for.
    """

    def __init__(self, tokens: TokenArray, starts: Int64[np.ndarray, " B"], seq_len: int) -> None:
        """Gather the windows that begin at `starts`."""
        windows = np.lib.stride_tricks.sliding_window_view(tokens.ids, seq_len + 1)[starts].astype(np.int64)
        self.inputs: Int64[np.ndarray, "B T"] = windows[:, :-1]
        self.targets: Int64[np.ndarray, "B T"] = windows[:, 1:]
        self._tokens = tokens
        self._starts = starts

    def past(self, length: int) -> Int64[np.ndarray, "B R"]:
        """Return the `length` tokens before each window, see `past_windows`."""
        return past_windows(self._tokens, self._starts, length)

    @cached_property
    def segments(self) -> Int32[np.ndarray, "B T"]:
        """Number of each input token's document within its window."""
        doc_starts = self._tokens.doc_starts
        marks = np.zeros(self.inputs.shape, dtype=np.int32)
        # a document that begins at a window's first token does not begin a second segment.
        first = np.searchsorted(doc_starts, self._starts, side="right")
        last = np.searchsorted(doc_starts, self._starts + self.inputs.shape[1], side="left")
        for row in np.flatnonzero(last > first):
            marks[row, doc_starts[first[row] : last[row]] - self._starts[row]] = 1
        return np.cumsum(marks, axis=1, dtype=np.int32)


class WindowSampler:
    """Endless shuffled batches, each a pure function of seed and index: a resume needs no state.

    An epoch cuts the tokens, from a random phase on, into windows of T + 1 that overlap by the one token that is the
    last target of one and the first input of the next, and visits them in random order. So every token is a target
    once an epoch, but for fewer than T at each end. Epochs follow each other without a gap: a batch may hold the end
    of one and the beginning of the next. Windows cross the ends of documents; `segments` tells where.

    Cost: 4 bytes a window for the order of an epoch, drawn once an epoch (10 million windows: 0.5 s); a batch of
    32 x 128 takes well under a millisecond.
    """

    def __init__(self, tokens: TokenArray, seq_len: int, batch_size: int, seed: int) -> None:
        """Store the tokens; nothing is copied.

        Args:
            tokens: at least seq_len + 1 of them.
            seq_len: T, at least 1.
            batch_size: B, at least 1.
            seed: not negative.

        Raises:
            UserError: if there are too few tokens for one window, or a size is less than 1.
        """
        _at_least("--seq-len", seq_len, 1)
        _at_least("--batch-size", batch_size, 1)
        _at_least("--seed", seed, 0)
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"--seq-len must leave room for one window of {seq_len + 1} tokens; got seq_len {seq_len} and "
                f"{len(tokens)} tokens of text. Try --seq-len {max((len(tokens) - 1) // 2, 1)} or give more text."
            )
        self.tokens = tokens
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.seed = seed
        # one window is given up, where there are two, so that every phase has the same number of windows.
        self.num_windows = max((len(tokens) - seq_len) // seq_len, 1)
        self._max_phase = min(seq_len - 1, len(tokens) - 1 - self.num_windows * seq_len)
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches until every window was seen, rounded up."""
        return -(-self.num_windows // self.batch_size)

    def batch(self, index: int) -> Batch:
        """Return batch `index`, counted from 0 over all epochs."""
        _at_least("the index of a batch", index, 0)
        begin = index * self.batch_size
        starts = np.empty(self.batch_size, dtype=np.int64)
        row = 0
        while row < self.batch_size:
            epoch, position = divmod(begin + row, self.num_windows)
            count = min(self.batch_size - row, self.num_windows - position)
            phase, order = self._epoch(epoch)
            starts[row : row + count] = order[position : position + count].astype(np.int64) * self.seq_len + phase
            row += count
        return Batch(self.tokens, starts, self.seq_len)

    def _epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        if epoch not in self._epochs:
            rng = np.random.default_rng([self.seed, epoch])
            phase = int(rng.integers(self._max_phase + 1))
            order = np.arange(self.num_windows, dtype=np.int32 if self.num_windows < 1 << 31 else np.int64)
            rng.shuffle(order)
            # a batch needs at most the end of one epoch and the beginning of the next, or many tiny ones.
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1} | {epoch: (phase, order)}
        return self._epochs[epoch]


def past_windows(tokens: TokenArray, starts: Int64[np.ndarray, " B"], length: int) -> Int64[np.ndarray, "B R"]:
    """Return the `length` tokens before each start that belong to the same document, 0 for all before it.

    Costs O(B R) and a binary search a row.
    """
    places = starts[:, None] + np.arange(-length, 0)
    document = np.searchsorted(tokens.doc_starts, starts, side="right") - 1
    begins = np.where(document >= 0, tokens.doc_starts[np.maximum(document, 0)] if len(tokens.doc_starts) else 0, 0)
    inside = places >= begins[:, None]
    return np.where(inside, tokens.ids[np.maximum(places, 0)], 0).astype(np.int64)


def window_starts(num_ids: int, seq_len: int, stride: int) -> Int64[np.ndarray, " W"]:
    """Return where the windows of `sliding_windows` over `num_ids` tokens begin, in order."""
    last = max(num_ids - 1 - seq_len, 0)
    starts: np.ndarray = np.minimum(np.arange(-(-last // stride) + 1, dtype=np.int64) * stride, last)
    return starts


def sliding_windows(
    tokens: TokenArray, seq_len: int, stride: int, batch_size: int
) -> Iterator[tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]]:
    """Yield windows that score every token but the first exactly once.

    A window moves on by `stride`, and scores only what no window before it has scored, so that every scored token
    has at least `seq_len - stride + 1` tokens before it, as far as there are so many. The last window is moved back
    to end with the text.

    Args:
        tokens: at least 2 of them.
        seq_len: T.
        stride: from 1 (slowest, most context) to seq_len (fastest).
        batch_size: B.

    Yields:
        inputs, targets and a mask that is true where a target is to be scored. All batches have the same shape;
        what is not needed holds 0 and is masked.

    Raises:
        UserError: if there are fewer than 2 tokens, a size is less than 1, or stride is above seq_len.
    """
    _at_least("--seq-len", seq_len, 1)
    _at_least("--batch-size", batch_size, 1)
    if not 1 <= stride <= seq_len:
        raise UserError(f"--stride must lie between 1 and seq_len; got {stride} and {seq_len}. Try {-(-seq_len // 2)}.")
    if len(tokens) < 2:
        raise UserError(f"text must hold at least 2 tokens to be scored; got {len(tokens)}. Give more text.")
    return _slide(tokens.ids, seq_len, stride, batch_size)


def _slide(ids: np.ndarray, seq_len: int, stride: int, batch_size: int) -> Iterator[Any]:
    num_targets = len(ids) - 1
    last = max(num_targets - seq_len, 0)
    num_windows = -(-last // stride) + 1
    for first in range(0, num_windows, batch_size):
        inputs = np.zeros((batch_size, seq_len), dtype=np.int64)
        targets = np.zeros_like(inputs)
        mask = np.zeros((batch_size, seq_len), dtype=np.bool_)
        for row, window in enumerate(range(first, min(first + batch_size, num_windows))):
            start = min(window * stride, last)
            scored = 0 if window == 0 else (window - 1) * stride + seq_len
            width = min(seq_len, num_targets - start)
            inputs[row, :width] = ids[start : start + width]
            targets[row, :width] = ids[start + 1 : start + 1 + width]
            mask[row, scored - start if window else 0 : width] = True
        yield inputs, targets, mask


def _at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise UserError(f"{name} must be at least {minimum}; got {value}.")

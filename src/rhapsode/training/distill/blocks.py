"""Stretches of captured text as a field reads them, in training and in evaluation.

Shape letters: R rows, T positions of a row, P ids before it, W window, F numbers of a captured position.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rhapsode.models.field.base import BEFORE
from rhapsode.training.distill.shards import Capture, Targets

ROW = 64
"""Positions of a row: neighbours share their windows and their counts."""


@dataclass(frozen=True)
class Block:
    """Rows of consecutive positions.

    Attributes:
        starts: the first position of each row.
        past: int64 (R, P), ids before each row, `BEFORE` in front of the text.
        ids: int64 (R, T).
        targets: what the teacher said, of R T positions.
        read: reads `raw`; None if nothing was captured but ids.
    """

    starts: tuple[int, ...]
    past: Tensor
    ids: Tensor
    targets: Targets
    read: Callable[[], Tensor] | None = None

    @cached_property
    def raw(self) -> Tensor | None:
        """float32 (R T, W F), what the teacher did in the window that ends at each position, read when asked for."""
        return None if self.read is None else self.read()


class BlockReader:
    """Cuts blocks out of a capture."""

    def __init__(self, capture: Capture, context: int, window: int) -> None:
        """Store what is read.

        Args:
            context: P.
            window: W.
        """
        self.capture = capture
        self._context, self._window = context, window
        self._ids = np.concatenate([np.full(context, BEFORE), capture.ids])

    def block(self, starts: list[int], length: int) -> Block:
        """Return the rows that begin at `starts`."""
        offsets = np.array(starts)[:, None]
        positions = (offsets + np.arange(length)).reshape(-1)
        past = self._ids[offsets + np.arange(self._context)]
        ids = self._ids[offsets + self._context + np.arange(length)]
        targets = self.capture.targets(positions)
        read = (
            (lambda: torch.from_numpy(self.capture.windows(positions, self._window)))
            if self.capture.spec.width
            else None
        )
        return Block(tuple(starts), torch.from_numpy(past), torch.from_numpy(ids), targets, read)

    def batch(self, index: int, batch_size: int, seed: int) -> Block:
        """Return batch `index` of endless passes in random order: a pure function of seed and index.

        Rows of `ROW` positions, the last stretch of the text left out where it is shorter.
        """
        length = min(ROW, len(self.capture), batch_size)
        rows, count = max(1, batch_size // length), max(1, len(self.capture) // length)
        starts = []
        for number in range(index * rows, (index + 1) * rows):
            epoch, place = divmod(number, count)
            order = np.random.default_rng([seed, epoch]).permutation(count)
            starts.append(int(order[place]) * length)
        return self.block(starts, length)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return how many batches make a pass."""
        length = min(ROW, len(self.capture), batch_size)
        return max(1, -(-(len(self.capture) // length) // max(1, batch_size // length)))

    def in_order(self, length: int, limit: int | None = None) -> Iterator[Block]:
        """Yield the text front to back, a row at a time; the last may be shorter."""
        end = len(self.capture) if limit is None else min(limit, len(self.capture))
        for start in range(0, end, length):
            yield self.block([start], min(length, end - start))

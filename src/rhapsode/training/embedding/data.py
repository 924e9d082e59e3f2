"""Batches of pairs (what is asked, what is wanted), each a function of seed and number: a resume needs no state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhapsode.errors import UserError

# numbers of evaluation batches, away from those of training.
_HELD_OUT = 1 << 40


@dataclass(frozen=True)
class Pairs:
    """int64 (N,) each: `inputs` are read from the embedding, `targets` are the ids wanted of them."""

    inputs: Tensor
    targets: Tensor


BatchOf = Callable[[int], Pairs]
EvalData = Callable[[], Iterator[Pairs]]


def synthetic_batches(vocab_size: int, batch_size: int, seed: int) -> BatchOf:
    """Return batches of ids drawn evenly, each its own target."""

    def batch(number: int) -> Pairs:
        ids = np.random.default_rng([seed, number]).integers(0, vocab_size, batch_size)
        return Pairs(torch.from_numpy(ids), torch.from_numpy(ids))

    return batch


def text_batches(ids: np.ndarray, batch_size: int, seed: int) -> BatchOf:
    """Return batches of ids drawn from text, each its own target."""
    _check_length(ids, 1)

    def batch(number: int) -> Pairs:
        places = np.random.default_rng([seed, number]).integers(0, len(ids), batch_size)
        drawn = torch.from_numpy(ids[places].astype(np.int64))
        return Pairs(drawn, drawn)

    return batch


def neighbour_batches(ids: np.ndarray, batch_size: int, window: int, seed: int) -> BatchOf:
    """Return pairs of a token and one within `window` places of it (skip-gram: Mikolov et al. 2013, arXiv 1310.4546).

    A pair may cross the end of a document, which happens once in thousands.
    """
    _check_length(ids, window + 1)

    def batch(number: int) -> Pairs:
        rng = np.random.default_rng([seed, number])
        places = rng.integers(0, len(ids), batch_size)
        away = rng.integers(1, window + 1, batch_size) * rng.choice([-1, 1], batch_size)
        # at the ends of the text the neighbour is on the other side.
        others = places + away
        others = np.where((others < 0) | (others >= len(ids)), places - away, others)
        pair = (torch.from_numpy(ids[at].astype(np.int64)) for at in (places, np.clip(others, 0, len(ids) - 1)))
        return Pairs(*pair)

    return batch


def held_out(batch_of: BatchOf, count: int) -> EvalData:
    """Return a factory: every call gives a fresh iterator over the same `count` batches that training never sees."""
    return lambda: (batch_of(_HELD_OUT + number) for number in range(count))


def _check_length(ids: np.ndarray, least: int) -> None:
    if len(ids) < least:
        raise UserError(f"--data must hold at least {least} tokens; got {len(ids)}. Give more text.")

"""The counted distribution that a field corrects: logits = log p_base + field, in log space.

A field that had to learn everything would spend its units on what counting knows already. It learns the residual, as
a boosted model does (Friedman 2001), here over interpolated Kneser-Ney or over the unigram.

Counts know their own text too well: a context of it always seems to have been seen. So a base that a field is trained
over is cross-fitted: each stretch of the training text is predicted from the counts of the other folds.

Shape letters: B sequences, P ids before them, T ids, C vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from torch import Tensor

from rhapsode.memory.ngram_base import NgramBase, build_ngram_base
from rhapsode.memory.ngram_memory import NgramMemory

BEFORE = -1
"""Stands where there is no id: before the beginning of a text."""
_STRETCH = 2048


NUM_SURENESS = 5
# brings logarithms and entropies near one.
_LOG_SCALE, _ENTROPY_SCALE = 0.2, 0.3


def sureness(log_probs: Float[Tensor, "N C"]) -> Float[Tensor, "N 5"]:
    """Return how sure a distribution is: its two largest probabilities, their logarithms, and its entropy. O(N C)."""
    top = log_probs.topk(2, dim=1).values if log_probs.shape[1] > 1 else log_probs.expand(-1, 2)
    probabilities = log_probs.exp()
    entropy = -(probabilities * log_probs).sum(dim=1, keepdim=True)
    return torch.cat([top.exp(), _LOG_SCALE * top, _ENTROPY_SCALE * entropy], dim=1)


class BaseDistribution:
    """log p(next id | ids before it), without a gradient."""

    def __init__(self, log_unigram: Float32[np.ndarray, " C"], ngrams: NgramBase | None) -> None:
        """Read n-gram counts; the unigram alone where there are none."""
        self.log_unigram = torch.from_numpy(log_unigram)
        self.ngrams = ngrams
        self._memory = None if ngrams is None else NgramMemory(ngrams, len(log_unigram))

    @property
    def context(self) -> int:
        """Ids before the present one that it looks at."""
        return 0 if self._memory is None else max(0, self._memory.order - 2)

    def read(self, past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Return natural-log probabilities of the id after each of `ids`, float32.

        Args:
            past: ids before them; `BEFORE` where there are none, on the left.

        Cost: O(B T order C).
        """
        if self._memory is None:
            return self.log_unigram.expand(*ids.shape, -1)
        return torch.stack(
            [
                torch.from_numpy(self._read_row(row[row != BEFORE].numpy(), new.numpy()))
                for row, new in zip(past.cpu(), ids.cpu(), strict=True)
            ]
        )

    def _read_row(self, past: np.ndarray, ids: np.ndarray) -> Float32[np.ndarray, "T C"]:
        assert self._memory is not None
        past = past[max(0, len(past) - self.context) :]
        if len(ids) == 1:
            state = self._memory.start(np.concatenate([past, ids]))
            return self._memory.predict(state).log_probabilities.astype(np.float32)[None]
        # a reader tells each id before it comes: what comes after the last is asked for by any id.
        read = self._memory.reader().read(np.concatenate([past, ids, ids[:1]]))
        return read.log_probabilities[len(past) + 1 :]


class CrossFitted:
    """The bases of a training text, one for each of its folds, that has counted the other folds."""

    def __init__(
        self, ids: Integer[np.ndarray, " N"], log_unigram: Float32[np.ndarray, " C"], order: int, folds: int
    ) -> None:
        """Count the text without each fold in turn. O(folds order N log N).

        Stretches of 2,048 ids belong to the folds in turn, so that what is left out has its own kind of text around it,
        as it will have when all is counted. Whole parts of a text left out would teach the field their vocabulary,
        which the counts of everything know.

        Args:
            folds: at least 2.
        """
        self._stretch = max(1, min(_STRETCH, -(-len(ids) // folds)))
        fold_of = np.arange(len(ids)) // self._stretch % folds
        vocab_size = len(log_unigram)
        self._bases = [
            BaseDistribution(log_unigram, build_ngram_base(ids[fold_of != fold], vocab_size, order))
            for fold in range(folds)
        ]

    def at(self, position: int) -> BaseDistribution:
        """Return the base that has not seen the stretch around a position."""
        return self._bases[position // self._stretch % len(self._bases)]

    def read(self, starts: Sequence[int], past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Return what the bases of the stretches that begin at `starts` say; see `BaseDistribution.read`."""
        rows = [
            self.at(start).read(before[None], new[None]) for start, before, new in zip(starts, past, ids, strict=True)
        ]
        return torch.cat(rows)

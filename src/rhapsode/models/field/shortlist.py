"""The most frequent ids, which get an output each, and one output for all others together.

Shape letters: C vocabulary, V classes (ids of the shortlist, and perhaps one for all others), N positions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from torch import Tensor

from rhapsode.errors import UserError

DEFAULT_LIMIT = 4096


@dataclass(frozen=True)
class Shortlist:
    """Classes of ids.

    Attributes:
        class_of: int64 (C,); the class of each id.
        num_classes: V; where it is less than C, the last class is that of all ids outside the shortlist.
        log_unigram: float32 (C,), smoothed by one count for each id.
    """

    class_of: Int64[np.ndarray, " C"]
    num_classes: int
    log_unigram: Float32[np.ndarray, " C"]

    @classmethod
    def fit(cls, ids: Integer[np.ndarray, " N"], vocab_size: int, limit: int | None) -> "Shortlist":
        """Choose the most frequent ids of a text.

        Args:
            limit: V; None takes 4096, or all ids where there are fewer.

        Raises:
            UserError: if the limit is above the vocabulary or less than 2.
        """
        if limit is not None and not 2 <= limit <= vocab_size:
            raise UserError(
                f"model.vocab_limit must lie between 2 and the teacher's vocabulary {vocab_size}; got {limit}. "
                "Leave it out to take all ids up to 4096."
            )
        num_classes = min(vocab_size, DEFAULT_LIMIT) if limit is None else limit
        counts = np.bincount(ids, minlength=vocab_size).astype(np.float64)
        order = np.argsort(-counts, kind="stable")
        class_of = np.full(vocab_size, num_classes - 1, dtype=np.int64)
        named = num_classes if num_classes == vocab_size else num_classes - 1
        class_of[order[:named]] = np.arange(named)
        log_unigram = np.log((counts + 1) / (counts + 1).sum())
        return cls(class_of, num_classes, log_unigram.astype(np.float32))

    @property
    def vocab_size(self) -> int:
        """C."""
        return len(self.class_of)

    @property
    def unk_class(self) -> int | None:
        """The class of ids outside the shortlist, or None if there are none."""
        return None if self.num_classes == self.vocab_size else self.num_classes - 1

    def unk_rate(self, ids: Integer[np.ndarray, " N"]) -> float:
        """Return the share of ids that the shortlist does not name."""
        return 0.0 if self.unk_class is None else float((self.class_of[ids] == self.unk_class).mean())


def class_log_probs(
    log_probs: Float[Tensor, "N C"], class_of: Integer[Tensor, " C"], num_classes: int
) -> Float[Tensor, "N V"]:
    """Return the log-probabilities of the classes: those outside the shortlist are added up."""
    if num_classes == log_probs.shape[-1]:
        return log_probs.new_empty(log_probs.shape).scatter_(1, class_of.expand_as(log_probs), log_probs)
    named = class_of < num_classes - 1
    out = log_probs.new_empty(log_probs.shape[0], num_classes)
    out[:, class_of[named]] = log_probs[:, named]
    out[:, -1] = torch.logsumexp(log_probs[:, ~named], dim=1)
    return out

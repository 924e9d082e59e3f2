"""The unigram model: the figure a model sits on when it has learnt only how common each id is."""

import numpy as np
from jaxtyping import Float64, Integer

from rhapsode.memory.ngram_counts import check_ids, check_not_empty, check_vocab_size


class Unigram:
    """Add-one unigram over token ids, p(w) = (c(w) + 1) / (N + C); immutable once fitted.

    >>> round(float(Unigram.fit(np.array([0, 0, 1]), vocab_size=2).log_prob(np.array([0]))[0]), 4)
    -0.5108
    """

    def __init__(self, log_probabilities: Float64[np.ndarray, " C"]) -> None:
        """Use `fit`; this stores its result."""
        self.log_probabilities = log_probabilities
        self.vocab_size = len(log_probabilities)

    @classmethod
    def fit(cls, ids: Integer[np.ndarray, " N"], vocab_size: int) -> "Unigram":
        """Count `ids`. Cost O(N + C).

        Raises:
            UserError: if there are no ids or one is outside the vocabulary.
        """
        check_vocab_size(vocab_size)
        check_not_empty(ids)
        check_ids(ids, vocab_size)
        counts = np.bincount(ids, minlength=vocab_size)
        return cls(np.log(counts + 1.0) - np.log(len(ids) + vocab_size))

    def log_prob(self, ids: Integer[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Return the natural-log probability of each id.

        Raises:
            UserError: if an id is outside the vocabulary.
        """
        check_ids(ids, self.vocab_size)
        scores: Float64[np.ndarray, " N"] = self.log_probabilities[ids]
        return scores

    def nats_per_token(self, ids: Integer[np.ndarray, " N"]) -> float:
        """Return the mean negative log probability of `ids`, in nats.

        Raises:
            UserError: if there are no ids or one is outside the vocabulary.
        """
        check_not_empty(ids)
        return -float(self.log_prob(ids).mean())

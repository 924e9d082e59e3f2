"""Guesses the part of speech of a gloss's word and of a blank: linear in hashed features. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rhapsode.evaluation.oneshot.features import context_features, gloss_features


@dataclass(frozen=True)
class PartGuesser:
    """Weights (F, P) and biases (P,) of contexts and of glosses for P parts of speech, and how frequent each is."""

    contexts: Float[np.ndarray, "F P"]
    context_bias: Float[np.ndarray, " P"]
    glosses: Float[np.ndarray, "F P"]
    gloss_bias: Float[np.ndarray, " P"]
    prior: Float[np.ndarray, " P"]

    def of_query(self, text: str) -> Float[np.ndarray, " P"]:
        """Return the chance of each part for the blank of a sentence."""
        return _softmax(self._context(text))

    def of_entry(self, gloss: str, usages: Sequence[str]) -> Float[np.ndarray, " P"]:
        """Return the chance of each part for the word of a gloss and its sentences, taken as independent."""
        total = self.glosses[gloss_features(gloss)].sum(axis=0) + self.gloss_bias
        for usage in usages:
            total = total + np.log(_softmax(self._context(usage)) / self.prior)
        return _softmax(total)

    def _context(self, text: str) -> Float[np.ndarray, " P"]:
        return np.asarray(self.contexts[context_features(text)].sum(axis=0) + self.context_bias)


def _softmax(logits: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    chances = np.exp(logits - logits.max())
    return np.asarray(chances / chances.sum())

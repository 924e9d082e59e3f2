"""From evidence to a confidence: a small logistic model whose coefficients are shipped.

    confidence = 1 / (1 + exp(-(b + w . f)))

`benchmarks/fit_confidence.py` fits it on questions with and without an answer that code makes up, and writes
`coefficients.json` beside this file, together with the scores of the questions without an answer.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from rhapsode.answering.conformal import conformal_threshold
from rhapsode.answering.evidence import FEATURES, Evidence
from rhapsode.errors import StateError

EVEN_ODDS = 0.5
SHIPPED = Path(__file__).with_name("coefficients.json")


@dataclass(frozen=True)
class ConfidenceModel:
    """The coefficients, and how high questions without an answer scored in the shipped pairs.

    Attributes:
        weights: float64 (F,), in the order of `FEATURES`.
        top_scores: the highest scores of `num_negatives` synthetic questions without an answer, sorted.
    """

    weights: Float64[np.ndarray, " F"]
    bias: float
    top_scores: Float64[np.ndarray, " N"]
    num_negatives: int

    def score(self, evidence: Evidence) -> float:
        """Return the confidence, in [0, 1]."""
        return self.score_vector(evidence.vector())

    def score_vector(self, features: Float64[np.ndarray, " F"]) -> float:
        """Return the confidence for features in the order of `FEATURES`."""
        return float(logistic(float(features @ self.weights) + self.bias))

    def shipped_threshold(self, error_rate: float) -> float:
        """Return the conformal threshold over the shipped pairs.

        It is never below even odds: real questions differ from made-up ones more than those from one another. Only the
        top scores of the pairs are kept, and an `error_rate` that asks for more pairs than there are takes the highest.
        """
        padded = np.concatenate([np.zeros(self.num_negatives - len(self.top_scores)), self.top_scores])
        threshold = conformal_threshold(padded, max(error_rate, 1 / self.num_negatives))
        return max(float(threshold or 0.0), EVEN_ODDS)

    def payload(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "bias": self.bias,
            "weights": dict(zip(FEATURES, self.weights.tolist(), strict=True)),
            "num_negatives": self.num_negatives,
            "top_scores": self.top_scores.tolist(),
        }


def logistic(value: Float64[np.ndarray, "..."] | float) -> Float64[np.ndarray, "..."]:
    """Return 1 / (1 + exp(-value)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(value, dtype=np.float64))))


def fit_logistic(
    features: Float64[np.ndarray, "N F"], answered: Float64[np.ndarray, " N"], ridge: float = 1.0
) -> tuple[Float64[np.ndarray, " F"], float]:
    """Return weights and bias of the most likely logistic model, by Newton's method.

    Both classes count as much in sum, however many rows they have: a confidence of one half means even odds where as
    many questions have an answer as have none.

    Args:
        answered: 1 where the memory answers the question, 0 where it does not.
        ridge: half the penalty on squared weights (the bias is free): without it, perfect separation never ends.
    """
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 1e-6
    num_answered = answered.sum()
    counts = np.where(
        answered > 0, 0.5 * len(answered) / num_answered, 0.5 * len(answered) / (len(answered) - num_answered)
    )
    solution = np.zeros(design.shape[1])
    for _ in range(50):
        predicted = logistic(design @ solution)
        gradient = design.T @ (counts * (answered - predicted)) - penalty * solution
        curvature = (design.T * (counts * predicted * (1 - predicted))) @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        solution += step
        if np.abs(step).max() < 1e-9:
            break
    return solution[:-1], float(solution[-1])


@cache
def load_confidence(path: Path = SHIPPED) -> ConfidenceModel:
    """Read the coefficients.

    Raises:
        StateError: if the file does not fit this version.
    """
    try:
        value = json.loads(path.read_bytes())
        weights = np.array([value["weights"][name] for name in FEATURES], dtype=np.float64)
        scores = np.array(value["top_scores"], dtype=np.float64)
        return ConfidenceModel(weights, float(value["bias"]), scores, int(value["num_negatives"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} must hold the shipped coefficients ({error!r}). Install rhapsode again.") from None

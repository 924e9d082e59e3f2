"""The figures of the one-shot comparison: one function for every method. Torch-free."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rhapsode.answering.conformal import conformal_threshold
from rhapsode.ops.statistics import student_quantile


def difference(
    ours: Bool[np.ndarray, " n"], theirs: Bool[np.ndarray, " n"], clusters: Sequence[Hashable]
) -> dict[str, Any]:
    """Return the difference of two shares on the same n queries, with a 95 % interval over clusters.

    Returns:
        `value`, `n`, `interval`; the interval is None with fewer than two clusters.
    """
    gaps = ours.astype(np.float64) - theirs
    n, mean = len(gaps), float(gaps.mean())
    group = np.unique([str(c) for c in clusters], return_inverse=True)[1]
    number = int(group.max()) + 1
    if number < 2:
        return {"value": mean, "n": n, "interval": None}
    residuals = np.bincount(group, weights=gaps - mean, minlength=number)
    half = student_quantile(number - 1) * float(np.sqrt((residuals**2).sum() * number / (number - 1))) / n
    return {"value": mean, "n": n, "interval": [mean - half, mean + half]}


def auroc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float:
    """The chance that a random positive scores above a random negative, ties counting a half (Mann-Whitney).

    >>> auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    up_to = np.searchsorted(order, positive, side="right")
    return float((below + up_to).mean() / 2 / len(negative))


def abstention(
    taught: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    untaught: Float[np.ndarray, " m"],
    calibration: Float[np.ndarray, " c"],
    error_rate: float = 0.1,
) -> dict[str, Any]:
    """Return how well a confidence tells taught words from untaught ones.

    Args:
        taught, correct: confidence of the queries about taught words, and whether each was right.
        untaught: confidence of queries about words that were never taught.
        calibration: the same of other untaught words, from which the threshold comes.
        error_rate: share of untaught queries that may be answered.

    Returns:
        `auroc` of taught against untaught; `aurc`, the mean error over all coverages, surest first (El-Yaniv and
        Wiener 2010); and at the threshold of `error_rate`: `coverage`, the share of taught queries answered, `risk`,
        the errors among them, and `fabricated`, the share of untaught queries answered.
    """
    order = np.argsort(-taught, kind="stable")
    errors = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    threshold = conformal_threshold(calibration, error_rate)
    result: dict[str, Any] = {"auroc": auroc(taught, untaught), "aurc": float(errors.mean()), "error_rate": error_rate}
    if threshold is None:
        return {**result, "coverage": None, "risk": None, "fabricated": None}
    answered = taught > threshold
    risk = float(1 - correct[answered].mean()) if answered.any() else None
    return {
        **result,
        "coverage": float(answered.mean()),
        "risk": risk,
        "fabricated": float((untaught > threshold).mean()),
    }

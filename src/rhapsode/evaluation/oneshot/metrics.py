"""The figures of the one-shot comparison: one function for every method. Torch-free."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_Z95 = 1.959964
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


def proportion(correct: Sequence[bool] | Bool[np.ndarray, " n"], *clusterings: Sequence[Hashable]) -> dict[str, Any]:
    """Return a share with n and a 95 % interval.

    The queries of one word are alike, and so are those of one training: the variance is taken over the clusters of
    each clustering (Cochran 1977, ch. 9), the largest counts, and n is shrunk to what independent queries would
    need for it. The interval is Wilson's (1927), which stays within [0, 1] and open where every answer is right. There
    the clusters of the finest clustering count as one observation each.

    Args:
        correct: (n,) whether each query was right.
        clusterings: for each, (n,) the cluster of every query.

    Returns:
        `value`, `n`, `interval`; value and interval are None where n is 0.
    """
    right = np.asarray(correct, dtype=np.float64)
    n = len(right)
    if n == 0:
        return {"value": None, "n": 0, "interval": None}
    share = right.mean()
    effective = float(n)
    groups = [np.unique([str(c) for c in clusters], return_inverse=True)[1] for clusters in clusterings]
    if share in (0.0, 1.0):
        effective = float(max((g.max() + 1 for g in groups), default=n))
    else:
        for group in groups:
            effective = min(effective, n / _design_effect(right, share, group))
    return {"value": float(share), "n": n, "interval": _wilson(float(share), max(effective, 1.0))}


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
    half = _quantile(number - 1) * float(np.sqrt((residuals**2).sum() * number / (number - 1))) / n
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


def conformal_threshold(negative: Float[np.ndarray, " n"], error_rate: float) -> float | None:
    """Return a threshold that a new untaught query exceeds with probability at most `error_rate`.

    Split conformal (Vovk et al. 2005): the ceil((n + 1)(1 - a))-th smallest of n scores of untaught queries. None if
    n is too small for the guarantee, which is below 1/a - 1.
    """
    rank = int(np.ceil((len(negative) + 1) * (1 - error_rate)))
    return None if rank > len(negative) else float(np.sort(negative)[rank - 1])


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


def _design_effect(right: np.ndarray, share: float, group: np.ndarray) -> float:
    number = int(group.max()) + 1
    if number < 2:
        return 1.0
    residuals = np.bincount(group, weights=right - share, minlength=number)
    variance = (residuals**2).sum() * number / (number - 1) / len(right) ** 2
    return max(1.0, float(variance * len(right) / (share * (1 - share)) * (_quantile(number - 1) / _Z95) ** 2))


def _quantile(degrees: int) -> float:
    return _STUDENT[degrees - 1] if degrees <= len(_STUDENT) else _Z95


def _wilson(share: float, n: float) -> list[float]:
    z2 = _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return [max(0.0, float(centre - half)), min(1.0, float(centre + half))]

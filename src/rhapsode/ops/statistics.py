"""Intervals for the figures we print."""

from collections.abc import Hashable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

# two-sided 95 % quantile of the normal distribution.
_Z95 = 1.959964
# the same of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


def ratio_interval(
    numerators: Float[np.ndarray, " N"], denominators: Float[np.ndarray, " N"], num_blocks: int = 100
) -> tuple[float, float]:
    """Return a 95 % interval of sum(numerators) / sum(denominators) for a series that is correlated in itself.

    The series is cut into consecutive blocks, taken as independent, and the ratio's variance is linearised
    (Cochran 1977, Sampling Techniques, ch. 6): neighbouring tokens are alike, so an interval over single
    tokens would be too narrow.

    Raises:
        ValueError: if there are fewer than two items.
    """
    num_blocks = min(num_blocks, len(numerators))
    if num_blocks < 2:
        raise ValueError(f"an interval needs at least 2 items; got {len(numerators)}.")
    edges = np.linspace(0, len(numerators), num_blocks + 1).astype(np.int64)[:-1]
    tops = np.add.reduceat(numerators.astype(np.float64), edges)
    bottoms = np.add.reduceat(denominators.astype(np.float64), edges)
    ratio = tops.sum() / bottoms.sum()
    residuals = tops - ratio * bottoms
    deviation = np.sqrt(residuals.var(ddof=1) / num_blocks) / bottoms.mean()
    return float(ratio - _Z95 * deviation), float(ratio + _Z95 * deviation)


def wilson_interval(successes: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927); (0, 1) for no observation.

    >>> [round(bound, 4) for bound in wilson_interval(0, 1000)]
    [0.0, 0.0038]
    """
    if count == 0:
        return 0.0, 1.0
    share, spread = successes / count, _Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


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
    return {
        "value": float(share),
        "n": n,
        "interval": list(wilson_interval(float(share) * max(effective, 1.0), max(effective, 1.0))),
    }


def _design_effect(right: np.ndarray, share: float, group: np.ndarray) -> float:
    number = int(group.max()) + 1
    if number < 2:
        return 1.0
    residuals = np.bincount(group, weights=right - share, minlength=number)
    variance = (residuals**2).sum() * number / (number - 1) / len(right) ** 2
    return max(1.0, float(variance * len(right) / (share * (1 - share)) * (student_quantile(number - 1) / _Z95) ** 2))


def student_quantile(degrees: int) -> float:
    """Return the two-sided 95 % quantile of Student's t; from 15 degrees of freedom on that of the normal."""
    return _STUDENT[degrees - 1] if degrees <= len(_STUDENT) else _Z95

"""Intervals for the figures we print."""

import numpy as np
from jaxtyping import Float

# two-sided 95 % quantile of the normal distribution.
_Z95 = 1.959964


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

"""Split-conformal thresholds: how high a score must be, so that questions without an answer rarely reach it.

Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world"; inductive (split) form, Papadopoulos et al.
2002.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from jaxtyping import Float64


def conformal_threshold(scores: Float64[np.ndarray, " N"] | Sequence[float], error_rate: float) -> float | None:
    """Return the k-th smallest of N scores of questions without an answer, k = ceil((N + 1)(1 - a)).

    If a new question without an answer is exchangeable with those N (and the way scores are made did not
    depend on their order), then its score exceeds the threshold with probability at most a. The probability is over
    the N questions and the new one together: for one given draw the rate varies about a, with
    standard deviation near sqrt(a (1 - a) / N). Ties count in favour of abstaining.

    Args:
        scores: finite, in any order.
        error_rate: a, above 0 and below 1.

    Returns:
        the threshold, or `None` if there are fewer than 1 / a scores: then no score can be promised to be high enough.

    >>> conformal_threshold([0.1 * i for i in range(1, 20)], 0.1), conformal_threshold([0.5] * 9, 0.1)
    (1.8, None)
    """
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate must lie between 0 and 1; got {error_rate}.")
    count = len(scores)
    # one part in 1e9 of slack: 1 / 0.01 must not become 100.00000000000001.
    if count < 1 / error_rate - 1e-9:
        return None
    place = ceil((count + 1) * (1 - error_rate) - 1e-9)
    return float(np.sort(np.asarray(scores, dtype=np.float64))[min(place, count) - 1])

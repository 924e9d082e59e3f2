"""What a pass over several positions costs on this machine, learnt while it runs."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

_DECAY = 0.98
# a pass that another program interrupted must not count for what it took. Noise only ever adds time, so what is above
# the estimate counts little, and what is below it in full.
_MOST = 1.15
_DOWN, _UP = 0.2, 0.05
_PROBE_EVERY = 50
# costs move slowly, and working them out takes as long as a small draft.
_REFRESH_EVERY = 8


class CostModel:
    """c(n) = a + b n for several positions, and c(1) = r c'(1), with c' that line: one position takes other kernels.

    Least squares with exponential forgetting, and a running mean of r; O(1) a measurement. Slow and busy times of the
    machine change the line; r stays what it is.
    """

    def __init__(self) -> None:
        self._ratio = 0.0
        # sums of weight, n, n^2, t, n t over passes of several positions.
        self._sums = np.zeros(5)
        self._since_one = 0
        self._costs = np.ones(0)
        self._num_observed = 0

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return self._ratio > 0

    @property
    def wants_one(self) -> bool:
        """Whether a pass of one position is due: without any, its cost would be forgotten."""
        return self._since_one >= _PROBE_EVERY

    def calibrate(self, measure: Callable[[int], float], most: int, rounds: int = 6) -> None:
        """Time passes of 1, 2, ... `most` positions, two dozen in all. Mutates.

        Args:
            measure: runs a pass of so many positions that leaves no trace, and returns its seconds.
        """
        seconds: dict[int, list[float]] = {size: [] for size in sorted({1, 2, min(8, most), most})}
        for _ in range(rounds):
            for size, times in seconds.items():
                times.append(measure(size))
        # the first pass of a size finds cold caches, and any may be interrupted: the fastest is the machine's.
        for size, times in seconds.items():
            if size > 1:
                self._add(size, min(times))
        self._ratio = min(seconds[1]) / self._several(1)

    def observe(self, positions: int, seconds: float) -> None:
        """Count a pass. Mutates."""
        self._since_one = 0 if positions == 1 else self._since_one + 1
        self._num_observed += 1
        if positions > 1:
            self._add(positions, min(seconds, _MOST * self._several(positions)))
            return
        ratio = min(seconds / self._several(1), _MOST * self._ratio)
        self._ratio += (_DOWN if ratio < self._ratio else _UP) * (ratio - self._ratio)

    def costs(self, most: int) -> Float64[np.ndarray, " most"]:
        """Return the cost of 1, 2, ... `most` positions over that of one."""
        if len(self._costs) < most or self._num_observed >= _REFRESH_EVERY:
            start, slope = self._line()
            line = start + slope * np.arange(1, max(most, len(self._costs)) + 1)
            relative = line / (self._ratio * line[0])
            relative[0] = 1.0
            # more positions never cost less, whatever a short series of measurements says.
            self._costs = np.maximum.accumulate(relative)
            self._num_observed = 0
        return self._costs[:most]

    def _several(self, positions: int) -> float:
        start, slope = self._line()
        return start + slope * positions

    def _line(self) -> tuple[float, float]:
        weight, n, nn, t, nt = self._sums.tolist()
        spread = weight * nn - n * n
        # passes of one size only say nothing about the slope.
        slope = max(0.0, (weight * nt - n * t) / spread) if spread > 1e-6 * weight * nn else 0.0
        return (t - slope * n) / weight, slope

    def _add(self, positions: int, seconds: float) -> None:
        self._sums *= _DECAY
        self._sums += (1.0, positions, positions**2, seconds, positions * seconds)

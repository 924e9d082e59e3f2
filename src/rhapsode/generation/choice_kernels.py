"""The loop that draws and says whether rounding could have changed the draw, compiled by numba."""

import math
from typing import no_type_check

import numpy as np
from numba import njit


@no_type_check
@njit(cache=True)
def decide(values, kept, is_ranked, temperature, top_p, min_p, uniforms, tolerance, usual, at, certain):
    """Draw a place in each row of logits `values`, and decide again with every edge a little lower and higher.

    Rows are ranked, largest first, or in the order of ids. `certain` is what stays the same and, in a ranked row, has
    no neighbour within the tolerance. The filters are those of `sampling`: top-k (`kept`), top-p and min-p.
    """
    size = values.shape[1]
    weights = np.empty(size)
    for row in range(values.shape[0]):
        largest, extent = -math.inf, 0.0
        for place in range(size):
            largest = max(largest, values[row, place])
            extent = max(extent, abs(values[row, place]))
        scale = tolerance * max(1.0, extent / usual)
        step = scale / temperature
        whole = 0.0
        for place in range(size):
            weights[place] = math.exp((values[row, place] - largest) / temperature)
            if place < kept:
                whole += weights[place]
        chosen = _draw(weights, kept, whole, top_p, min_p, 0.0, 1 - uniforms[row])
        same = True
        for edge in (-step, step):
            for move in (-step, step):
                number = min(max(1 - uniforms[row] + move, 1e-300), 1.0)
                same = same and _draw(weights, kept, whole, top_p, min_p, edge, number) == chosen
        if is_ranked:
            if chosen > 0 and values[row, chosen - 1] - values[row, chosen] < scale:
                same = False
            if chosen + 1 < size and values[row, chosen] - values[row, chosen + 1] < scale:
                same = False
        at[row], certain[row] = chosen, same


@no_type_check
@njit(cache=True)
def _draw(weights, kept, whole, top_p, min_p, edge, number):
    """Return the first place where the share of what is kept reaches `number`; `edge` above 0 keeps more."""
    total, before, last = 0.0, 0.0, 0
    for place in range(kept):
        if _keeps(weights[place], before / whole, place, top_p, min_p, edge):
            total += weights[place]
            last = place
        before += weights[place]
    reached, before = 0.0, 0.0
    for place in range(kept):
        if _keeps(weights[place], before / whole, place, top_p, min_p, edge):
            reached += weights[place]
            if reached >= number * total:
                return place
        before += weights[place]
    return last


@no_type_check
@njit(cache=True)
def _keeps(weight, before, place, top_p, min_p, edge):
    if top_p < 1 and place > 0 and before >= top_p + edge:
        return False
    return min_p == 0 or weight == 1.0 or weight >= min_p * math.exp(-2 * edge)

"""The loops that choose ids and say whether rounding could have changed them, compiled by numba."""

import math
from typing import no_type_check

import numpy as np
from numba import njit

# the first ids, which are never an answer, as in `sampling`.
_NEVER = 2
ENDED, CLOSE, DAMAGED = range(3)
"""How judging a draft ends: at an id that is not the draft's, at one that rounding could change, at a wrong logit."""


@no_type_check
@njit(cache=True)
def decide(values, kept, is_ranked, temperature, top_p, min_p, uniforms, tolerance, usual, at, certain):
    """As `decide_row`, for each row of logits `values`; fill places `at` and whether they are `certain`."""
    weights = np.empty(values.shape[1])
    for row in range(values.shape[0]):
        at[row], certain[row] = decide_row(
            values[row], kept, is_ranked, temperature, top_p, min_p, uniforms[row], tolerance, usual, weights
        )


@no_type_check
@njit(cache=True)
def decide_row(values, kept, is_ranked, temperature, top_p, min_p, uniform, tolerance, usual, weights):
    """Draw a place among logits `values`, and decide again with every edge a little lower and higher.

    They are ranked, largest first, or in the order of ids. Certain is what stays the same and, if ranked, has
    no neighbour within the tolerance. The filters are those of `sampling`: top-k (`kept`), top-p and min-p. `weights`
    is scratch.
    """
    size = len(values)
    largest, extent = -math.inf, 0.0
    for place in range(size):
        largest = max(largest, values[place])
        extent = max(extent, abs(values[place]))
    scale = tolerance * max(1.0, extent / usual)
    step = scale / temperature
    whole = 0.0
    for place in range(size):
        weights[place] = math.exp((values[place] - largest) / temperature)
        if place < kept:
            whole += weights[place]
    chosen = _draw(weights, kept, whole, top_p, min_p, 0.0, 1 - uniform)
    same = True
    for edge in (-step, step):
        for move in (-step, step):
            number = min(max(1 - uniform + move, 1e-300), 1.0)
            same = same and _draw(weights, kept, whole, top_p, min_p, edge, number) == chosen
    if is_ranked:
        if chosen > 0 and values[chosen - 1] - values[chosen] < scale:
            same = False
        if chosen + 1 < size and values[chosen] - values[chosen + 1] < scale:
            same = False
    return chosen, same


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


@no_type_check
@njit(cache=True)
def judge_greedy(logits, fed, tolerance, usual, likeliest):
    """Take the likeliest id after each of `fed` as long as it is the next one; the last has none behind it.

    Returns:
        How many were taken, the last of them not the draft's; and how it ended. A close call is not taken. `likeliest`
        is filled for all positions.
    """
    taken, ending = 0, -1
    for place in range(len(fed)):
        best, first, second = _two_largest(logits[place])
        if not (math.isfinite(first)):
            return place, DAMAGED
        likeliest[place] = best
        if ending >= 0:
            continue
        if first - second <= tolerance * max(1.0, abs(first) / usual):
            ending = CLOSE
            continue
        taken += 1
        if place + 1 == len(fed) or best != fed[place + 1]:
            ending = ENDED
    return taken, ending


@no_type_check
@njit(cache=True)
def judge_sampled(logits, fed, uniforms, top_k, temperature, top_p, min_p, tolerance, usual, chosen, likeliest):
    """As `judge_greedy`, with ids drawn by a number each; those taken are the first of `chosen`."""
    size = logits.shape[1] - _NEVER
    is_ranked = top_k > 0 or top_p < 1
    kept = min(top_k, size) if top_k > 0 else size
    most = min(kept + 1, size) if is_ranked else size
    values, names, weights = np.empty(most, dtype=np.float32), np.empty(most, dtype=np.int64), np.empty(most)
    taken, ending = 0, -1
    for place in range(len(fed)):
        row = logits[place]
        best, first, _ = _two_largest(row)
        if not (math.isfinite(first)):
            return place, DAMAGED
        likeliest[place] = best
        if ending >= 0:
            continue
        if is_ranked:
            _rank(row, values, names)
            at, certain = decide_row(
                values, kept, True, temperature, top_p, min_p, uniforms[place], tolerance, usual, weights
            )
            chosen[place] = names[at]
        else:
            at, certain = decide_row(
                row[_NEVER:], kept, False, temperature, top_p, min_p, uniforms[place], tolerance, usual, weights
            )
            chosen[place] = at + _NEVER
        if not certain:
            ending = CLOSE
            continue
        taken += 1
        if place + 1 == len(fed) or chosen[place] != fed[place + 1]:
            ending = ENDED
    return taken, ending


@no_type_check
@njit(cache=True)
def _two_largest(row):
    """Return the likeliest id that may be an answer, its logit and the next one; what is not a number comes first."""
    best, first, second = _NEVER, row[_NEVER], np.float32(-np.inf)
    if math.isnan(first):
        return best, first, second
    for index in range(_NEVER + 1, len(row)):
        value = row[index]
        # written so that it is true for what is not a number.
        if not (value <= second):
            if math.isnan(value):
                return index, value, second
            if value > first:
                best, first, second = index, value, first
            else:
                second = value
    return best, first, second


@no_type_check
@njit(cache=True)
def _rank(row, values, names):
    """Fill `values` with the largest logits of ids that may be answers, largest first, and `names` with the ids."""
    most = len(values)
    if 4 * most > len(row):
        order = np.argsort(-row[_NEVER:])
        for place in range(most):
            names[place] = order[place] + _NEVER
            values[place] = row[names[place]]
        return
    taken = 0
    for index in range(_NEVER, len(row)):
        value = row[index]
        if taken == most and value <= values[most - 1]:
            continue
        place = taken if taken < most else most - 1
        while place > 0 and values[place - 1] < value:
            values[place], names[place] = values[place - 1], names[place - 1]
            place -= 1
        values[place], names[place] = value, index
        taken = min(taken + 1, most)

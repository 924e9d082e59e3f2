"""The loops of drafting, compiled by numba: index ids, look contexts up, and walk or search for a draft.

`ids` is a buffer whose first `length` ids are the text so far; walks write their draft behind it, which is scratch.
`estimates` (sources, orders, buckets of votes) is the probability that a cell's id is accepted.

Compiled code is cached beside this file.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from rhapsode.generation.drafting.tables import MAX_ORDER, ORDERS

NUM_BUCKETS = 4
_ORDERS = np.array(ORDERS, dtype=np.int64)
_PROBES = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xC2B2AE3D27D4EB4F)


@no_type_check
@njit(cache=True)
def hash_contexts(ids, length, keys):
    """Fill `keys` with the hash of the last 1, 2, ... ids, for each of the orders; return how many fit."""
    value = np.uint64(1)
    place = 0
    for size in range(1, min(length, MAX_ORDER) + 1):
        value = (value + np.uint64(ids[length - size] + 1)) * _MULTIPLIER
        value ^= value >> np.uint64(29)
        if size == _ORDERS[place]:
            key = value * _MIXER
            key ^= key >> np.uint64(32)
            keys[place] = key | np.uint64(1)
            place += 1
    return place


@no_type_check
@njit(cache=True)
def find(table, key):
    """Return the cell of a key, or -1."""
    mask = np.uint64(len(table.keys) - 1)
    for probe in range(_PROBES):
        cell = (key >> np.uint64(1)) + np.uint64(probe) & mask
        if table.keys[cell] == key:
            return np.int64(cell)
        if table.keys[cell] == 0:
            return np.int64(-1)
    return np.int64(-1)


@no_type_check
@njit(cache=True)
def put(table, key, token, recent):
    """Count that `token` followed a context."""
    mask = np.uint64(len(table.keys) - 1)
    weakest = np.uint64(0)
    fewest = np.int64(1 << 40)
    for probe in range(_PROBES):
        cell = (key >> np.uint64(1)) + np.uint64(probe) & mask
        if table.keys[cell] == key:
            if table.ids[cell] == token:
                table.votes[cell] += 1
            elif recent or table.votes[cell] == 1:
                table.ids[cell], table.votes[cell] = token, 1
            else:
                table.votes[cell] -= 1
            return
        if table.keys[cell] == 0:
            weakest = cell
            break
        if table.votes[cell] < fewest:
            weakest, fewest = cell, table.votes[cell]
    table.keys[weakest], table.ids[weakest], table.votes[weakest] = key, token, 1


@no_type_check
@njit(cache=True)
def learn(table, ids, start, stop, recent):
    """Index ids[start:stop], each after what stands before it in `ids`."""
    keys = np.empty(len(_ORDERS), dtype=np.uint64)
    for place in range(max(1, start), stop):
        for order in range(hash_contexts(ids, place, keys)):
            put(table, keys[order], ids[place], recent)


@no_type_check
@njit(cache=True)
def bucket_of(votes):
    """Return 0 for one vote, 1 for two or three, 2 for up to seven, 3 for more."""
    bucket = 0
    while votes > 1 and bucket < NUM_BUCKETS - 1:
        votes >>= 1
        bucket += 1
    return bucket


@no_type_check
@njit(cache=True)
def look_up(tables, estimates, keys, num_orders, source):
    """Return a source's surest cell for a context: (id, estimate, cell of `estimates`), with id -1 if it has none."""
    best_id, best, best_at = np.int64(-1), 0.0, np.int64(-1)
    for order in range(num_orders):
        cell = find(tables[source], keys[order])
        if cell < 0:
            # a longer context was not seen if a shorter one was not.
            break
        bucket = bucket_of(tables[source].votes[cell])
        estimate = estimates[source, order, bucket]
        if estimate >= best:
            best_id, best = np.int64(tables[source].ids[cell]), estimate
            best_at = (source * len(_ORDERS) + order) * NUM_BUCKETS + bucket
    return best_id, best, best_at


@no_type_check
@njit(cache=True)
def walk(tables, estimates, ids, length, first, last, max_draft, floor, draft, chances, cells):
    """Draft ids one after another, each from the surest of the sources `first` to `last`; return how many.

    Ends where the chance that all so far are accepted falls below `floor`.
    """
    keys = np.empty(len(_ORDERS), dtype=np.uint64)
    survival = 1.0
    for place in range(max_draft):
        token, best, at = _surest(tables, estimates, ids, length + place, first, last, keys)
        survival *= best
        if token < 0 or survival < floor:
            return place
        draft[place], chances[place], cells[place] = token, best, at
        ids[length + place] = token
    return max_draft


@no_type_check
@njit(cache=True)
def _surest(tables, estimates, ids, length, first, last, keys):
    """Return the surest cell of several sources after ids[:length]; see `look_up`."""
    num_orders = hash_contexts(ids, length, keys)
    token, best, at = np.int64(-1), 0.0, np.int64(-1)
    for source in range(first, last):
        one = look_up(tables, estimates, keys, num_orders, source)
        if one[0] >= 0 and one[1] > best:
            token, best, at = one
    return token, best, at


@no_type_check
@njit(cache=True)
def walk_as_it_pays(tables, estimates, ids, length, first, last, floor, costs, draft, chances, cells):
    """`walk` for one position less than there are costs, then `best_length`, without the steps that cannot pay.

    Further positions cost at least the flattest rise from here, and bring at most the chance that they are reached.
    """
    keys = np.empty(len(_ORDERS), dtype=np.uint64)
    most = len(costs) - 1
    size, best_rate, survival, expected = 0, 1.0 / costs[0], 1.0, 1.0
    for place in range(most):
        rise = np.inf
        for later in range(place + 1, most + 1):
            rise = min(rise, (costs[later] - costs[place]) / (later - place))
        if place > 0 and survival < best_rate * rise:
            break
        token, best, at = _surest(tables, estimates, ids, length + place, first, last, keys)
        survival *= best
        if token < 0 or survival < floor:
            break
        draft[place], chances[place], cells[place] = token, best, at
        ids[length + place] = token
        expected += survival
        if expected / costs[place + 1] > best_rate:
            size, best_rate = place + 1, expected / costs[place + 1]
    return size


@no_type_check
@njit(cache=True)
def best_length(chances, costs):
    """Return the k with the largest (1 + S_1 + ... + S_k) / costs[k], S_i the product of the first i chances."""
    best, best_rate, survival, expected = 0, 1.0 / costs[0], 1.0, 1.0
    for place in range(len(chances)):
        survival *= chances[place]
        expected += survival
        if expected / costs[place + 1] > best_rate:
            best, best_rate = place + 1, expected / costs[place + 1]
    return best


@no_type_check
@njit(cache=True)
def settle(estimates, trials, cells, num_accepted, num_tried, decay):
    """Move the estimates of the cells that were tried: the first `num_accepted` were right, the next was not."""
    for place in range(num_tried):
        source = cells[place] // (len(_ORDERS) * NUM_BUCKETS)
        order = cells[place] // NUM_BUCKETS % len(_ORDERS)
        bucket = cells[place] % NUM_BUCKETS
        trials[source, order, bucket] = trials[source, order, bucket] * decay + 1.0
        right = 1.0 if place < num_accepted else 0.0
        estimates[source, order, bucket] += (right - estimates[source, order, bucket]) / trials[source, order, bucket]


@no_type_check
@njit(cache=True)
def learn_choices(table, ids, length, choices, num_choices):
    """Index what the model chose after each of the last `num_choices` prefixes; `ids[:length]` is the longest."""
    keys = np.empty(len(_ORDERS), dtype=np.uint64)
    for place in range(num_choices):
        prefix = length - num_choices + 1 + place
        for order in range(hash_contexts(ids, prefix, keys)):
            put(table, keys[order], choices[place], True)


@no_type_check
@njit(cache=True)
def finish(
    tables, estimates, trials, ids, length, draft, cells, accepted, judged, choices, new, refines, indexes, decay
):
    """Learn from a verified draft, and go on with the ids that came of it; see `phases.finish`."""
    settle(estimates, trials, cells, accepted, min(len(draft), judged, accepted + 1), decay)
    if refines:
        ids[length : length + len(choices) - 1] = draft[: len(choices) - 1]
        learn_choices(tables[1], ids, length + len(choices) - 1, choices, len(choices))
    ids[length : length + len(new)] = new
    if indexes:
        learn(tables[0], ids, length, length + len(new), True)


@no_type_check
@njit(cache=True)
def search(tables, estimates, ids, length, first, last, max_draft, floor, width, draft, chances, cells):
    """As `walk`, but keep the `width` likeliest paths over the shortlists of each position (Viterbi, 1967, pruned).

    What follows depends on the whole path, so paths that meet in one id are kept apart. Returns the path with the most
    ids expected to be accepted.
    """
    keys = np.empty(len(_ORDERS), dtype=np.uint64)
    paths = np.zeros((2, width, max_draft), dtype=np.int64)
    odds = np.zeros((2, width, max_draft))
    places = np.zeros((2, width, max_draft), dtype=np.int64)
    survivals = np.zeros((2, width))
    totals = np.zeros((2, width))
    survivals[0, 0] = 1.0
    num_paths, now, best_total, size = 1, 0, 0.0, 0
    for place in range(max_draft):
        new, num_new = 1 - now, 0
        for path in range(num_paths):
            ids[length : length + place] = paths[now, path, :place]
            num_orders = hash_contexts(ids, length + place, keys)
            for source in range(first, last):
                token, chance, at = look_up(tables, estimates, keys, num_orders, source)
                survival = survivals[now, path] * chance
                if token < 0 or survival < floor:
                    continue
                slot = num_new
                for other in range(num_new):
                    if (
                        paths[new, other, place] == token
                        and (paths[new, other, :place] == paths[now, path, :place]).all()
                    ):
                        slot = other
                if slot < num_new and survivals[new, slot] >= survival:
                    continue
                if slot == width:
                    slot = np.argmin(survivals[new, :num_new])
                    if survivals[new, slot] >= survival:
                        continue
                num_new = max(num_new, slot + 1)
                paths[new, slot, :place] = paths[now, path, :place]
                odds[new, slot, :place] = odds[now, path, :place]
                places[new, slot, :place] = places[now, path, :place]
                paths[new, slot, place], odds[new, slot, place], places[new, slot, place] = token, chance, at
                survivals[new, slot] = survival
                totals[new, slot] = totals[now, path] + survival
                if totals[new, slot] > best_total:
                    best_total, size = totals[new, slot], place + 1
                    draft[:size] = paths[new, slot, :size]
                    chances[:size] = odds[new, slot, :size]
                    cells[:size] = places[new, slot, :size]
        if num_new == 0:
            break
        num_paths, now = num_new, new
    ids[length : length + size] = draft[:size]
    return size

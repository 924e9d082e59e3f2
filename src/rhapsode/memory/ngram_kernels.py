"""The loops of the n-gram memory, compiled by numba: walking, counting and uncounting ids one by one.

A context is a pair of nodes, one in the base trie and one in the live trie; -1 where it has none. Arrays of contexts
are indexed by the length of the context. What a live node holds of its children (`stats`) is what base and rows count
together, so that a probability is read from one place.

Compiled code is cached beside this file. Only `ngram_memory` calls it; `ngram_memory_plain` is the same in Python.
"""

from typing import no_type_check

import numpy as np
from numba import njit

ROOT = 0


@no_type_check
@njit(cache=True)
def find_base(base, node, token):
    """Return the base node of (`node`, `token`), or -1."""
    low, high = base.first_children[node], base.first_children[node + 1]
    while low < high:
        middle = (low + high) >> 1
        if base.tokens[middle] < token:
            low = middle + 1
        else:
            high = middle
    if low < base.first_children[node + 1] and base.tokens[low] == token:
        return low
    return -1


@no_type_check
@njit(cache=True)
def find_slot(live, node, token):
    """Return the slot of (`node`, `token`) in the hash table: where it is, or the free one where it belongs."""
    mask = np.uint64(len(live.slots) - 1)
    mixed = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    slot = mixed & mask
    while True:
        found = live.slots[slot]
        if found < 0 or (live.parents[found] == node and live.tokens[found] == token):
            return slot
        slot = (slot + np.uint64(1)) & mask


@no_type_check
@njit(cache=True)
def find_live(live, node, token):
    """Return the live node of (`node`, `token`) if a row holds it now, else -1."""
    found = live.slots[find_slot(live, node, token)]
    return found if found >= 0 and live.occurrences[found] > 0 else -1


@no_type_check
@njit(cache=True)
def fill_stats(base, live, node, base_node):
    """Start the totals of a live node's children with those of the base node."""
    live.stats[node, :] = 0
    if base_node >= 0:
        for child in range(base.first_children[base_node], base.first_children[base_node + 1]):
            live.stats[node, 0] += base.counts[child]
            live.stats[node, min(base.counts[child], 3)] += 1


@no_type_check
@njit(cache=True)
def find_or_add(base, live, node, token, base_node, is_inner):
    """Return the live node of (`node`, `token`), made if there is none."""
    slot = find_slot(live, node, token)
    found = live.slots[slot]
    if found < 0:
        found = live.sizes[0]
        live.sizes[0] += 1
        live.slots[slot] = found
        live.parents[found], live.tokens[found], live.base_nodes[found] = node, token, base_node
        live.occurrences[found] = live.new_neighbours[found] = 0
        live.first_children[found] = -1
        live.siblings[found] = live.first_children[node]
        live.first_children[node] = found
        if is_inner:
            fill_stats(base, live, found, base_node)
    return found


@no_type_check
@njit(cache=True)
def move_count(live, node, old, step):
    """Tell a context that the count of one of its children goes from `old` to `old + step`."""
    live.stats[node, 0] += step
    if old > 0:
        live.stats[node, min(old, 3)] -= 1
    if old + step > 0:
        live.stats[node, min(old + step, 3)] += 1


@no_type_check
@njit(cache=True)
def count_token(base, live, base_context, live_context, length, token, step):
    """Count (`step` 1) or uncount (-1) the n-grams that end with `token`; move the contexts on and return their length.

    `live_context[: length + 1]` are nodes of the row's own contexts; `base_context` has -1 where the base has none.
    """
    order = len(base.discounts)
    below, below_base = -1, -1
    # the context of the order below, before it is overwritten: contexts move on from the shortest.
    above, above_base = live_context[0], base_context[0]
    last = min(length, order - 1)
    for k in range(last + 1):
        context, context_base = above, above_base
        if k < last:
            above, above_base = live_context[k + 1], base_context[k + 1]
        base_node = find_base(base, context_base, token) if context_base >= 0 else -1
        node = find_or_add(base, live, context, token, base_node, k + 1 < order)
        old = live.occurrences[node]
        live.occurrences[node] = old + step
        if old + step == 0:
            live.sizes[1] += 1
        elif old == 0:
            live.sizes[1] -= 1
        if k + 1 == order:
            move_count(live, context, old + (base.counts[base_node] if base_node >= 0 else 0), step)
        if k > 0 and base_node < 0 and min(old, old + step) == 0:
            # the n-gram appears or disappears: its end gains or loses a neighbour on the left.
            neighbours = live.new_neighbours[below]
            live.new_neighbours[below] = neighbours + step
            move_count(
                live, live.parents[below], neighbours + (base.counts[below_base] if below_base >= 0 else 0), step
            )
        below, below_base = node, base_node
        if k + 1 < order:
            live_context[k + 1], base_context[k + 1] = node, base_node
    return min(length + 1, order - 1)


@no_type_check
@njit(cache=True)
def begin_row(base, live, base_context, live_context, start_token, step):
    """Set the contexts to the start of a row, and count the row; return their length.

    The start stands like an id to the left of the first ids; no distribution ever holds it.
    """
    base_context[0] = live_context[0] = ROOT
    if len(base.discounts) == 1:
        return 0
    node = find_or_add(base, live, ROOT, start_token, -1, True)
    if live.occurrences[node] == 0:
        live.sizes[1] -= 1
    live.occurrences[node] += step
    if live.occurrences[node] == 0:
        live.sizes[1] += 1
    base_context[1], live_context[1] = -1, node
    return 1


@no_type_check
@njit(cache=True)
def count_ids(base, live, base_context, live_context, length, ids, step):
    """Count or uncount `ids` from the contexts on; return the length of the contexts after them."""
    for token in ids:
        length = count_token(base, live, base_context, live_context, length, token, step)
    return length


@no_type_check
@njit(cache=True)
def follow(base, live, base_context, live_context, length, token):
    """Move contexts of known n-grams on by `token`; return the length of the longest that is known."""
    above, above_base = live_context[0], base_context[0]
    last = min(length, len(base.discounts) - 2)
    for k in range(last + 1):
        context, context_base = above, above_base
        if k < last:
            above, above_base = live_context[k + 1], base_context[k + 1]
        base_node = find_base(base, context_base, token) if context_base >= 0 else -1
        node = find_live(live, context, token) if context >= 0 else -1
        if base_node < 0 and node < 0:
            # what was never seen was never seen with more before it.
            return k
        live_context[k + 1], base_context[k + 1] = node, base_node
    return last + 1


@no_type_check
@njit(cache=True)
def context_figures(base, live, k, context_base, context):
    """Return the total of a context and the weight of the order below it."""
    if context >= 0:
        total = live.stats[context, 0]
        if total == 0:
            return total, 1.0
        kept = base.discounts[k, 1] * live.stats[context, 1]
        kept += base.discounts[k, 2] * live.stats[context, 2]
        kept += base.discounts[k, 3] * live.stats[context, 3]
        return total, kept / total
    if context_base >= 0:
        return base.totals[context_base], base.weights[context_base]
    return 0, 1.0


@no_type_check
@njit(cache=True)
def live_count(live, k, order, node):
    """Return what rows add to the count of an n-gram of k + 1 ids."""
    return live.occurrences[node] if k + 1 == order else live.new_neighbours[node]


@no_type_check
@njit(cache=True)
def distribute(base, live, base_context, live_context, length, added, probabilities):
    """Fill `probabilities` (C,) and return match length and count. `added` (C,) must hold 0 and does so afterwards."""
    order = len(base.discounts)
    probabilities[:] = 1.0 / len(probabilities)
    match_length, match_count = 0, 0
    for k in range(length + 1):
        context_base, context = base_context[k], live_context[k]
        total, weight = context_figures(base, live, k, context_base, context)
        if total == 0:
            break
        match_length, match_count = k, total
        for token in range(len(probabilities)):
            probabilities[token] *= weight
        if context >= 0:
            child = live.first_children[context]
            while child >= 0:
                if live.tokens[child] < len(probabilities):
                    added[live.tokens[child]] = live_count(live, k, order, child)
                child = live.siblings[child]
        if context_base >= 0:
            for child in range(base.first_children[context_base], base.first_children[context_base + 1]):
                token = base.tokens[child]
                count = base.counts[child] + added[token]
                probabilities[token] += (count - base.discounts[k, min(count, 3)]) / total
                added[token] = 0
        if context >= 0:
            child = live.first_children[context]
            while child >= 0:
                token = live.tokens[child]
                if token < len(probabilities) and added[token] > 0:
                    count = added[token]
                    probabilities[token] += (count - base.discounts[k, min(count, 3)]) / total
                    added[token] = 0
                child = live.siblings[child]
    return match_length, match_count


@no_type_check
@njit(cache=True)
def token_probability(base, live, base_context, live_context, length, vocab_size, token):
    """Return the probability of one id, match length and count: the same sums as `distribute`."""
    order = len(base.discounts)
    probability = 1.0 / vocab_size
    match_length, match_count = 0, 0
    for k in range(length + 1):
        context_base, context = base_context[k], live_context[k]
        total, weight = context_figures(base, live, k, context_base, context)
        if total == 0:
            break
        match_length, match_count = k, total
        count = 0
        if context_base >= 0:
            child = find_base(base, context_base, token)
            count += base.counts[child] if child >= 0 else 0
        if context >= 0:
            child = find_live(live, context, token)
            count += live_count(live, k, order, child) if child >= 0 else 0
        probability *= weight
        if count > 0:
            probability += (count - base.discounts[k, min(count, 3)]) / total
    return probability, match_length, match_count


@no_type_check
@njit(cache=True)
def locate(base, live, base_context, live_context, ids):
    """Set the contexts to those after `ids`, all of which are read; return the length of the longest that is known."""
    base_context[0] = live_context[0] = ROOT
    length = 0
    for token in ids:
        length = follow(base, live, base_context, live_context, length, token)
    return length


@no_type_check
@njit(cache=True)
def score_ids(base, live, contexts, lengths, ids, vocab_size, learn, log_probs, match_lengths, counts):
    """Score `ids`; with `learn`, count each after it is scored.

    `contexts` int64 (2, order): base and live. `lengths` int64 (2,): of the contexts, and how many ids of the row are
    behind them, which keeps the start of the row out of what is asked. Both are moved on.
    """
    base_context, live_context = contexts[0], contexts[1]
    length, behind = lengths[0], lengths[1]
    for i, token in enumerate(ids):
        known = min(length, behind)
        probability, match_length, count = token_probability(
            base, live, base_context, live_context, known, vocab_size, token
        )
        log_probs[i], match_lengths[i], counts[i] = np.log(probability), match_length, count
        if learn:
            length = count_token(base, live, base_context, live_context, length, token, 1)
        else:
            length = follow(base, live, base_context, live_context, length, token)
        behind += 1
    lengths[0], lengths[1] = length, behind


@no_type_check
@njit(cache=True)
def read_ids(base, live, contexts, lengths, ids, vocab_size, learn, log_probabilities, match_lengths, counts):
    """As `score_ids`, with the whole distribution before each id: `log_probabilities` float32 (N, C)."""
    base_context, live_context = contexts[0], contexts[1]
    length, behind = lengths[0], lengths[1]
    probabilities = np.empty(vocab_size)
    added = np.zeros(vocab_size, dtype=np.int64)
    for i, token in enumerate(ids):
        known = min(length, behind)
        match_length, count = distribute(base, live, base_context, live_context, known, added, probabilities)
        match_lengths[i], counts[i] = match_length, count
        for other in range(vocab_size):
            log_probabilities[i, other] = np.log(probabilities[other])
        if learn:
            length = count_token(base, live, base_context, live_context, length, token, 1)
        else:
            length = follow(base, live, base_context, live_context, length, token)
        behind += 1
    lengths[0], lengths[1] = length, behind


@no_type_check
@njit(cache=True)
def fill_slots(live):
    """Put all nodes but the root into an empty hash table."""
    for node in range(1, live.sizes[0]):
        live.slots[find_slot(live, live.parents[node], live.tokens[node])] = node

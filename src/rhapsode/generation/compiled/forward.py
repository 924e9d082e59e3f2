"""The pass of a decoder over a few positions, compiled by numba; the twin of `Decoder.hidden` and `Decoder.logits`."""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float32, Int32, Int64
from numba import njit

from rhapsode.generation.compiled.arithmetic import FAST, activate, exponentiate, multiply, normalize, soft_cap
from rhapsode.generation.compiled.weights import Weights

# as in `ops.ngram_hash`.
_PRIME = 2_147_483_647
_MULTIPLIER = 1_000_003
_ZERO = np.float32(0)


class Cache(NamedTuple):
    """Keys, values and ids of the positions so far, in slots from 0; written in place. What is behind is scratch."""

    keys: Float32[np.ndarray, "steps G K S"]
    """Rotated. Slots come last, so that a query meets many keys at once."""
    values: Float32[np.ndarray, "steps G S V"]
    ids: Int64[np.ndarray, " context_plus_S"]
    """Of slot s at `context + s`."""
    cosine: Float32[np.ndarray, "P half"]
    sine: Float32[np.ndarray, "P half"]


class Scratch(NamedTuple):
    """Rows of a pass; room for N positions and one more."""

    stream: Float32[np.ndarray, "N D"]
    normed: Float32[np.ndarray, "N D"]
    qkv: Float32[np.ndarray, "N qkv"]
    up: Float32[np.ndarray, "N F"]
    mixed: Float32[np.ndarray, "N D"]
    hidden: Float32[np.ndarray, "N D"]
    logits: Float32[np.ndarray, "N C"]
    scores: Float32[np.ndarray, " S_or_C"]
    bits: Int32[np.ndarray, " S_or_C"]


def make_scratch(weights: Weights, count: int, slots: int) -> Scratch:
    """Return scratch for passes of up to `count` positions over caches of `slots`."""
    width, vocab_size = weights.head.shape
    longest = max(slots, vocab_size)

    def rows(size: int) -> Float32[np.ndarray, "N size"]:
        return np.zeros((count + 1, size), dtype=np.float32)

    return Scratch(
        stream=rows(width),
        normed=rows(width),
        qkv=rows(weights.qkv.shape[2]),
        up=rows(weights.up.shape[2]),
        mixed=rows(width),
        hidden=rows(width),
        logits=rows(vocab_size),
        scores=np.zeros(longest, dtype=np.float32),
        bits=np.zeros(longest, dtype=np.int32),
    )


@no_type_check
@njit(cache=True)
def forward(weights, cache, scratch, length, position, count):
    """Read the ids of slots `length` and the `count - 1` behind it; fill rows of `hidden` and `logits`.

    Args:
        position: row of the first id in the tables of positions, learnt or rotary.
    """
    stream, normed, mixed, qkv, up = scratch.stream, scratch.normed, scratch.mixed, scratch.qkv, scratch.up
    _embed(weights, cache, length, position, count, stream, scratch.normed)
    for step in range(len(weights.path)):
        block = weights.path[step]
        _normalize_rows(weights, stream, normed, count, 2 + 2 * block)
        multiply(normed, weights.qkv[block], qkv, count)
        for place in range(count):
            _store(weights, cache, step, qkv[place], length + place, position + place)
        for place in range(count):
            _attend(weights, cache, scratch, step, qkv[place], length + place, mixed[place])
        multiply(mixed, weights.out[block], normed, count)
        _add(stream, normed, count)
        _normalize_rows(weights, stream, normed, count, 3 + 2 * block)
        multiply(normed, weights.up[block], up, count)
        for place in range(count):
            activate(up[place], weights.is_gelu)
        multiply(up, weights.down[block], mixed, count)
        _add(stream, mixed, count)
    _normalize_rows(weights, stream, scratch.hidden, count, 1)
    multiply(scratch.hidden, weights.head, scratch.logits, count)
    if weights.logit_cap > 0:
        for place in range(count):
            soft_cap(scratch.logits[place], np.float32(weights.logit_cap), scratch.scores, scratch.bits)


@no_type_check
@njit(cache=True, fastmath=FAST)
def _embed(weights, cache, length, position, count, stream, projected):
    ids, context = cache.ids, len(cache.ids) - cache.keys.shape[3]
    num_orders = len(weights.orders)
    for place in range(count):
        at = context + length + place
        row = stream[place]
        table = weights.table[ids[at]]
        for i in range(len(row)):
            row[i] = table[i]
        for index in range(num_orders):
            order = weights.orders[index]
            value = np.int64(order)
            for offset in range(order):
                value = (value * _MULTIPLIER + ids[at - order + 1 + offset] + 1) % _PRIME
            vector = weights.ngram_tables[index, value % weights.ngram_tables.shape[1]]
            if weights.projections.shape[0] == 0:
                for i in range(len(row)):
                    row[i] += vector[i]
            else:
                multiply(vector.reshape(1, len(vector)), weights.projections[index], projected, 1)
                for i in range(len(row)):
                    row[i] += projected[0, i]
        if weights.position_table.shape[0] > 0:
            numbered = weights.position_table[position + place]
            for i in range(len(row)):
                row[i] += numbered[i]
    if weights.has_embed_norm:
        _normalize_rows(weights, stream, stream, count, 0)


@no_type_check
@njit(cache=True)
def _normalize_rows(weights, rows, out, count, index):
    norm = index if weights.is_layer_norm else 0
    for place in range(count):
        if weights.is_layer_norm:
            normalize(rows[place], out[place], True, weights.gains[norm], weights.biases[norm])
        else:
            # there is no gain: anything of its type will do.
            normalize(rows[place], out[place], False, rows[place], rows[place])


@no_type_check
@njit(cache=True, fastmath=FAST)
def _add(stream, rows, count):
    for place in range(count):
        to, row = stream[place], rows[place]
        for i in range(len(to)):
            to[i] += row[i]


@no_type_check
@njit(cache=True, fastmath=FAST)
def _store(weights, cache, step, qkv, slot, position):
    """Normalise and turn queries (in place) and keys of a position, and put its keys and values into their slot."""
    heads, groups, size = weights.num_heads, weights.num_kv_heads, cache.keys.shape[2]
    half = size // 2
    for head in range(heads + groups):
        part = qkv[head * size : (head + 1) * size]
        if weights.has_qk_norm:
            normalize(part, part, False, part, part)
        if weights.rotary_base > 0:
            cosine, sine = cache.cosine[position], cache.sine[position]
            for i in range(half):
                first, second = part[i], part[half + i]
                part[i] = first * cosine[i] + second * sine[i]
                part[half + i] = second * cosine[i] - first * sine[i]
        if head >= heads:
            for i in range(size):
                cache.keys[step, head - heads, i, slot] = part[i]
    for group in range(groups):
        part = qkv[(heads + groups + group) * size : (heads + groups + group + 1) * size]
        for i in range(size):
            cache.values[step, group, slot, i] = part[i]


@no_type_check
@njit(cache=True, fastmath=FAST)
def _attend(weights, cache, scratch, step, qkv, slot, out):
    """Write what a position sees: softmax(q k / sqrt(K)) over the slots of its window, applied to the values."""
    size = cache.keys.shape[2]
    first = max(0, slot + 1 - weights.windows[step])
    count = slot + 1 - first
    scores, bits = scratch.scores[:count], scratch.bits[:count]
    scale = np.float32(1 / np.sqrt(size))
    for head in range(weights.num_heads):
        group = head // (weights.num_heads // weights.num_kv_heads)
        query, keys = qkv[head * size : (head + 1) * size], cache.keys[step, group]
        scores[:] = _ZERO
        for i in range(0, size // 4 * 4, 4):
            q0, q1, q2, q3 = query[i], query[i + 1], query[i + 2], query[i + 3]
            k0, k1 = keys[i, first : slot + 1], keys[i + 1, first : slot + 1]
            k2, k3 = keys[i + 2, first : slot + 1], keys[i + 3, first : slot + 1]
            for s in range(count):
                scores[s] = scores[s] + q0 * k0[s] + q1 * k1[s] + q2 * k2[s] + q3 * k3[s]
        for i in range(size // 4 * 4, size):
            q0, k0 = query[i], keys[i, first : slot + 1]
            for s in range(count):
                scores[s] += q0 * k0[s]
        highest = scores[0]
        for s in range(count):
            highest = scores[s] if scores[s] > highest else highest
        for s in range(count):
            scores[s] = (scores[s] - highest) * scale
        exponentiate(scores, bits)
        total = _ZERO
        for s in range(count):
            total += scores[s]
        _mix(cache.values[step, group], scores, first, total, out[head * size : (head + 1) * size])


@no_type_check
@njit(cache=True, fastmath=FAST)
def _mix(values, scores, first, total, out):
    out[:] = _ZERO
    count = len(scores)
    for s in range(0, count // 4 * 4, 4):
        s0, s1, s2, s3 = scores[s], scores[s + 1], scores[s + 2], scores[s + 3]
        v0, v1, v2, v3 = values[first + s], values[first + s + 1], values[first + s + 2], values[first + s + 3]
        for i in range(len(out)):
            out[i] = out[i] + s0 * v0[i] + s1 * v1[i] + s2 * v2[i] + s3 * v3[i]
    for s in range(count // 4 * 4, count):
        s0, v0 = scores[s], values[first + s]
        for i in range(len(out)):
            out[i] += s0 * v0[i]
    factor = np.float32(1) / total
    for i in range(len(out)):
        out[i] *= factor

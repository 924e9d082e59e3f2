"""Products, norms and exponentials of a few rows, compiled by numba.

A row's result does not depend on how many rows are computed with it: each number is the same sum in the same order.
Compiled code is cached beside this file. Not-a-number is kept: a damaged model must be noticed.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit

# sums may be taken in any order, but nothing is assumed about infinities.
FAST = {"contract", "reassoc", "arcp", "nsz"}
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1.0), np.float32(2.0)
# exp(r) for |r| <= ln(2) / 2, by Taylor: the first term left out is 5e-9.
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)
_RMS_EPS = np.float32(np.finfo(np.float32).eps)
_LAYER_EPS = np.float32(1e-5)
_ROOT_HALF = math.sqrt(0.5)


@no_type_check
@njit(cache=True, fastmath={"contract"})
def multiply(rows, weight, out, count):
    """out[:count] = rows[:count] @ weight, weight (I, O). Writes one row more where `count` is 3 modulo 4.

    Rows of the weight are read once, four at a time, and serve four rows of the input together. These are `groups`
    apart, so that the compiler sees that they do not overlap, whichever are next.
    """
    size, width = weight.shape
    # four rows take less time than three.
    count += 1 if count % 4 == 3 else 0
    groups = count // 4
    out[:count] = 0
    for k in range(0, size // 4 * 4, 4):
        w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for a in range(groups):
            b, c, d = a + groups, a + 2 * groups, a + 3 * groups
            a0, a1, a2, a3 = rows[a, k], rows[a, k + 1], rows[a, k + 2], rows[a, k + 3]
            b0, b1, b2, b3 = rows[b, k], rows[b, k + 1], rows[b, k + 2], rows[b, k + 3]
            c0, c1, c2, c3 = rows[c, k], rows[c, k + 1], rows[c, k + 2], rows[c, k + 3]
            d0, d1, d2, d3 = rows[d, k], rows[d, k + 1], rows[d, k + 2], rows[d, k + 3]
            to_a, to_b, to_c, to_d = out[a], out[b], out[c], out[d]
            for j in range(width):
                v0, v1, v2, v3 = w0[j], w1[j], w2[j], w3[j]
                to_a[j] = to_a[j] + a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                to_b[j] = to_b[j] + b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                to_c[j] = to_c[j] + c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                to_d[j] = to_d[j] + d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3
        if count % 4 == 2:
            a, b = count - 2, count - 1
            a0, a1, a2, a3 = rows[a, k], rows[a, k + 1], rows[a, k + 2], rows[a, k + 3]
            b0, b1, b2, b3 = rows[b, k], rows[b, k + 1], rows[b, k + 2], rows[b, k + 3]
            to_a, to_b = out[a], out[b]
            for j in range(width):
                v0, v1, v2, v3 = w0[j], w1[j], w2[j], w3[j]
                to_a[j] = to_a[j] + a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                to_b[j] = to_b[j] + b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
        if count % 4 == 1:
            a = count - 1
            a0, a1, a2, a3 = rows[a, k], rows[a, k + 1], rows[a, k + 2], rows[a, k + 3]
            to_a = out[a]
            for j in range(width):
                to_a[j] = to_a[j] + a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j]
    for k in range(size // 4 * 4, size):
        w0 = weight[k]
        for a in range(count):
            a0, to_a = rows[a, k], out[a]
            for j in range(width):
                to_a[j] += a0 * w0[j]


@no_type_check
@njit(cache=True, fastmath=FAST)
def exponentiate(values, bits):
    """values = exp(values) in place, for values of at most 0; `bits` is scratch, int32 of the same length.

    2^k r, with k written into the exponent of a float (Cody and Waite 1980). Relative error below 3e-7.
    """
    powers = bits.view(np.float32)
    for i in range(len(values)):
        x = _LOWEST if values[i] < _LOWEST else values[i]
        whole = np.floor(x * _LOG2E + _HALF)
        r = x - whole * _LN2_HIGH - whole * _LN2_LOW
        values[i] = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for i in range(len(values)):
        values[i] *= powers[i]


@no_type_check
@njit(cache=True, fastmath=FAST)
def soft_cap(logits, cap, scratch, bits):
    """logits = cap tanh(logits / cap) in place, tanh(x) = (1 - z) / (1 + z) with z = exp(-2x)."""
    for i in range(len(logits)):
        scratch[i] = -_TWO * abs(logits[i]) / cap
    exponentiate(scratch[: len(logits)], bits[: len(logits)])
    for i in range(len(logits)):
        size = cap * (_ONE - scratch[i]) / (_ONE + scratch[i])
        logits[i] = -size if logits[i] < 0 else size


@no_type_check
@njit(cache=True, fastmath=FAST)
def normalize(row, out, is_layer_norm, gain, bias):
    """Write the norm of a row: RMS without a gain, or LayerNorm."""
    width = np.float32(len(row))
    if is_layer_norm:
        mean = np.float32(0)
        for i in range(len(row)):
            mean += row[i]
        mean /= width
        square = np.float32(0)
        for i in range(len(row)):
            square += (row[i] - mean) * (row[i] - mean)
        factor = _ONE / np.sqrt(square / width + _LAYER_EPS)
        for i in range(len(row)):
            out[i] = (row[i] - mean) * factor * gain[i] + bias[i]
        return
    square = np.float32(0)
    for i in range(len(row)):
        square += row[i] * row[i]
    factor = _ONE / np.sqrt(square / width + _RMS_EPS)
    for i in range(len(row)):
        out[i] = row[i] * factor


@no_type_check
@njit(cache=True, fastmath=FAST)
def activate(row, is_gelu):
    """row = relu(row)^2, or GELU, in place."""
    if is_gelu:
        for i in range(len(row)):
            row[i] = np.float32(_HALF * row[i] * (1.0 + math.erf(row[i] * _ROOT_HALF)))
        return
    for i in range(len(row)):
        # not max: it would lose what is not a number.
        row[i] = np.float32(0) if row[i] < 0 else row[i] * row[i]

"""Named rows of a float16 table against an input, on the CPU: numbers are widened as they are read, and nothing is
gathered. Gathering and casting the rows first, as plain PyTorch does, took two and a half times as long."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64
from numba import njit, uint32
from torch import Tensor

# sums in another order and fused multiplications, but no assumption that numbers are finite.
_FAST = {"contract", "reassoc"}
# a float16's exponent and fraction, moved to a float32's place, are the number over two to this power. Numbers under
# 6e-5 are subnormal there: where the processor is set to take those for zero, as in training, they are zero here.
_SHIFT = np.float32(2.0**112)


def reads_halves(table: Tensor, x: Tensor) -> bool:
    """Return whether these functions can read this table for this input."""
    return table.dtype == torch.float16 and x.dtype == torch.float32 and table.device.type == x.device.type == "cpu"


def half_dots(
    table: Float16[Tensor, "N D"], ids: Int64[Tensor, "B M"], x: Float[Tensor, "B D"]
) -> Float[Tensor, "B M"]:
    """Return x . row of every named row, summed in float32. O(B M D). Rows must be finite."""
    return _run(_dots, table, ids, x)


def half_squared_distances(
    table: Float16[Tensor, "N D"], ids: Int64[Tensor, "B M"], x: Float[Tensor, "B D"]
) -> Float[Tensor, "B M"]:
    """Return |x - row|^2 of every named row, summed in float32. O(B M D). Rows must be finite."""
    return _run(_squared_distances, table, ids, x)


def _run(kernel: Callable[..., Any], table: Tensor, ids: Tensor, x: Tensor) -> Tensor:
    out = torch.empty(ids.shape, dtype=torch.float32)
    halves = table.detach().view(torch.uint16).numpy()
    arrays = ids.contiguous().numpy(), x.detach().contiguous().numpy(), out.numpy()
    workers = max(1, min(torch.get_num_threads(), len(x)))
    if workers == 1:
        kernel(halves, *arrays)
        return out
    with ThreadPoolExecutor(workers) as pool:
        parts = zip(*(np.array_split(array, workers) for array in arrays), strict=True)
        for done in [pool.submit(kernel, halves, *part) for part in parts]:
            done.result()
    return out


@no_type_check
@njit(cache=True, nogil=True)
def _widen(row, wide):
    """Write the numbers of a row, over two to the 112th, into `wide`, as bits of float32."""
    for d in range(len(wide)):
        half = uint32(row[d])
        wide[d] = ((half & uint32(0x7FFF)) << uint32(13)) | ((half & uint32(0x8000)) << uint32(16))


@no_type_check
@njit(cache=True, nogil=True, fastmath=_FAST)
def _dots(table, ids, x, out):
    bits = np.empty(x.shape[1], np.uint32)
    wide = bits.view(np.float32)
    for b in range(len(x)):
        given = x[b]
        for m in range(ids.shape[1]):
            _widen(table[ids[b, m]], bits)
            total = np.float32(0)
            for d in range(len(wide)):
                total += wide[d] * given[d]
            out[b, m] = total * _SHIFT


@no_type_check
@njit(cache=True, nogil=True, fastmath=_FAST)
def _squared_distances(table, ids, x, out):
    bits = np.empty(x.shape[1], np.uint32)
    wide = bits.view(np.float32)
    for b in range(len(x)):
        given = x[b]
        for m in range(ids.shape[1]):
            _widen(table[ids[b, m]], bits)
            total = np.float32(0)
            for d in range(len(wide)):
                gap = given[d] - wide[d] * _SHIFT
                total += gap * gap
            out[b, m] = total

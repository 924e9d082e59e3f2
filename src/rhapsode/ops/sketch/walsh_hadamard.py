"""The orthonormal Walsh-Hadamard transform: a compiled kernel on a processor, two matrix products elsewhere.

y = H x with H[i, j] = (-1)^popcount(i & j) / sqrt(L), L a power of two. H is symmetric and its own inverse, so the
transform is its own gradient.
"""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.opaque import needs_operation
from rhapsode.ops.sketch import walsh_hadamard_kernel as kernel

_KERNEL_DTYPES = {torch.float32: torch.float32, torch.bfloat16: torch.uint16, torch.float16: torch.int16}
# below this many numbers a second thread costs more than it saves.
_MIN_PER_THREAD = 1 << 17
# a thread takes piece after piece, so that one that is held up holds up little.
_PIECES = 4
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def walsh_hadamard(x: Float[Tensor, "*B L"], out: Float[Tensor, "*B L"] | None = None) -> Float[Tensor, "*B L"]:
    """Return the orthonormal transform of the last dimension, in the dtype of `x`.

    Costs O(L log L) a row. Sixteen-bit numbers are summed in float32 and rounded once. Float32, bfloat16 and float16 on
    a processor go through the compiled kernel, on torch's number of threads; float64 and lengths under 16 through
    the plain butterflies; other devices through two Kronecker products, O(L^1.5).

    Args:
        out: where to write, contiguous, of the same shape, dtype and device; may be `x` itself. Nothing is recorded
            for the gradient then.

    Raises:
        UserError: if L is no power of two, x holds integers, or `out` does not fit.
    """
    check_length(x.shape[-1] if x.ndim else 0)
    if not x.is_floating_point():
        raise UserError(f"x must hold floating-point numbers; got {x.dtype}. Convert it with x.float().")
    if out is None:
        y: Tensor = _operation(x) if needs_operation(x) else _transform(x)
        return y
    if (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device) or not out.is_contiguous():
        raise UserError(
            f"out must be a contiguous {x.dtype} tensor of shape {tuple(x.shape)} on {x.device}; got {out.dtype} of "
            f"shape {tuple(out.shape)} on {out.device}. Make it with torch.empty_like(x.contiguous())."
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise UserError("out must be left out where x requires a gradient; got both. Drop out or use torch.no_grad().")
    _write(x, out)
    return out


def walsh_hadamard_plain(x: Float[Tensor, "*B L"]) -> Float[Tensor, "*B L"]:
    """The same by log2 L butterflies in plain torch."""
    length = x.shape[-1]
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    stride = 1
    while stride < length:
        pairs = y.reshape(*x.shape[:-1], length // (2 * stride), 2, stride)
        low, high = pairs.unbind(-2)
        y = torch.stack((low + high, low - high), -2).reshape(x.shape)
        stride *= 2
    return (y / math.sqrt(length)).to(x.dtype)


def walsh_hadamard_kronecker(x: Float[Tensor, "*B L"]) -> Float[Tensor, "*B L"]:
    """The same by two matrix products: H_L = H_a (x) H_b with a b = L; summed in float32 or wider."""
    length = x.shape[-1]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    a = 1 << (length.bit_length() // 2)
    b = length // a
    left, right = (hadamard_matrix(size, wide.dtype, x.device) for size in (a, b))
    return torch.matmul(left, torch.matmul(wide.reshape(-1, a, b), right)).reshape(x.shape).to(x.dtype)


def hadamard_matrix(
    length: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "L L"]:
    """Return H itself.

    >>> hadamard_matrix(4)[1].tolist()
    [0.5, -0.5, 0.5, -0.5]
    """
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    for _ in range(length.bit_length() - 1):
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(length)


def next_power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count`.

    >>> [next_power_of_two(n) for n in (1, 5, 64)]
    [1, 8, 64]
    """
    return 1 << max(count - 1, 0).bit_length()


def check_length(length: int) -> None:
    """Refuse a length that is no power of two.

    Raises:
        UserError: naming the next lengths below and above.
    """
    if length < 1 or length & (length - 1):
        above = next_power_of_two(length)
        near = f"{above // 2} or {above}" if length > 1 else "1"
        raise UserError(f"the last dimension must be a power of two; got {length}. Cut or pad it with zeros to {near}.")


def _transform(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _write(x, out)
    return out


_operation = torch.library.custom_op("rhapsode::walsh_hadamard", _transform, mutates_args=())


@_operation.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
    result: Tensor = _operation(gradient)
    return result


_operation.register_autograd(_backward)


@torch.no_grad()
def _write(x: Tensor, out: Tensor) -> None:
    length = x.shape[-1]
    if x.device.type != "cpu":
        out.copy_(walsh_hadamard_kronecker(x))
    elif length < kernel.LANES or x.dtype not in _KERNEL_DTYPES:
        out.copy_(walsh_hadamard_plain(x))
    elif x.dtype == torch.float16 and not kernel.NATIVE_FLOAT16:
        wide = x.float()
        _write(wide, wide)
        out.copy_(wide)
    else:
        _write_rows(x.contiguous(), out)


def _write_rows(x: Tensor, out: Tensor) -> None:
    """Share the rows out among threads; the kernel holds no lock of the interpreter."""
    length = x.shape[-1]
    kind = _KERNEL_DTYPES[x.dtype]
    source, target = (t.detach().reshape(-1).view(kind).numpy() for t in (x, out))
    rows = x.numel() // length
    scale = np.float32(1 / math.sqrt(length))
    num_threads = max(1, min(torch.get_num_threads(), rows, x.numel() // _MIN_PER_THREAD))
    step = max(1, -(-rows // (num_threads * _PIECES))) if num_threads > 1 else max(1, rows)
    pieces = iter(range(0, rows, step))

    def work() -> None:
        for first in pieces:
            kernel.transform_rows(source, target, first, min(first + step, rows), length, scale)

    others = [_executor().submit(work) for _ in range(num_threads - 1)]
    work()
    for other in others:
        # one that has not begun by now finds nothing left: on a busy machine this thread did it all.
        if not other.cancel():
            other.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="walsh_hadamard")
        return _pool


def _forget_executor() -> None:
    # threads do not survive a fork.
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_executor)

"""Rows of a table by index, with a gradient that is the same bit for bit on every run.

Compiled, PyTorch's own embedding adds gradients with atomic operations, in whatever order two threads come
by, so that two equal runs differ in the last bits and no resume can be exact. These two operations are
opaque to the compiler and keep the eager kernels, which give each thread its own rows.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.opaque import needs_operation


def look_up(table: Float[Tensor, "C D"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Return the row of every id. Costs O(B T D); the gradient is dense, O(C D)."""
    rows: Tensor = _look_up(table, ids) if needs_operation(table) else torch.nn.functional.embedding(ids, table)
    return rows


def look_up_plain(table: Float[Tensor, "C D"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """The same by plain indexing."""
    return table[ids]


@torch.library.custom_op("rhapsode::look_up", mutates_args=())
def _look_up(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding(ids, table)


@torch.library.custom_op("rhapsode::look_up_backward", mutates_args=())
def _look_up_backward(gradient: torch.Tensor, ids: torch.Tensor, num_rows: int) -> torch.Tensor:
    out: Tensor = torch.ops.aten.embedding_dense_backward(gradient.contiguous(), ids, num_rows, -1, False)
    return out


@_look_up.register_fake
def _(table: Tensor, ids: Tensor) -> Tensor:
    return table.new_empty((*ids.shape, table.shape[1]))


@_look_up_backward.register_fake
def _(gradient: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    return gradient.new_empty((num_rows, gradient.shape[-1]))


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    table, ids = inputs
    ctx.save_for_backward(ids)
    ctx.num_rows = table.shape[0]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
    (ids,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return _look_up_backward(gradient, ids, ctx.num_rows), None  # type: ignore[attr-defined]


_look_up.register_autograd(_backward, setup_context=_save)

"""x . table[ids] without keeping the gathered rows: what makes many active units of a wide table affordable."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# elements of one gathered block: 16 MB in float32, which an allocator keeps for the next one. Blocks of 64 MB took
# twice as long, in page faults.
_BLOCK = 1 << 22


def active_products(
    x: Float[Tensor, "B D"], table: Float[Tensor, "N D"], ids: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Return the product of each input with the rows named for it.

    The table may have lower precision; products are taken in that of x. O(B K D) time; memory beyond the result is one
    block of 16 MB forwards, and backwards the gradient of the table, summed input by input.
    """
    products: Tensor = _ActiveProducts.apply(x, table, ids)  # type: ignore[no-untyped-call]
    return products


def active_products_plain(
    x: Float[Tensor, "B D"], table: Float[Tensor, "N D"], ids: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The same with all rows gathered at once."""
    return torch.einsum("bd,bkd->bk", x, table[ids].to(x.dtype))


class _ActiveProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, ids)
        rows = max(1, _BLOCK // max(1, ids.shape[1] * x.shape[1]))
        parts = [
            torch.bmm(table[some].to(x.dtype), part.unsqueeze(2)).squeeze(2)
            for part, some in zip(torch.split(x, rows), torch.split(ids, rows), strict=True)
        ]
        return torch.cat(parts) if parts else x.new_zeros(ids.shape)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, table, ids = ctx.saved_tensors  # type: ignore[attr-defined]
        to_x = to_table = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            to_x = F.embedding_bag(ids, table.to(x.dtype), per_sample_weights=gradient, mode="sum")
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            # the transpose: for each unit the inputs that named it, so that the sum has one order on every run.
            flat = ids.reshape(-1)
            by_unit = flat.argsort(stable=True)
            edges = torch.bincount(flat, minlength=table.shape[0]).cumsum(0)
            starts = torch.cat([edges.new_zeros(1), edges[:-1]])
            back = gradient.reshape(-1)[by_unit]
            owners = by_unit // ids.shape[1]
            to_table = F.embedding_bag(owners, x, starts, per_sample_weights=back, mode="sum").to(table.dtype)
        return to_x, to_table, None

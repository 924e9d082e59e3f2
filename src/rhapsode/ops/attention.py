"""Softmax attention written out, and PyTorch's fused kernel for the devices where that is faster.

On the CPU the fused kernel's backward pass takes almost half of a training step at these sizes; two
matrix products and a softmax, compiled, do not. On a GPU the fused kernel wins and holds no T x T matrix.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    visible: Bool[Tensor, "#B 1 T S"] | None,
    scale: float,
) -> Float[Tensor, "B H T V"]:
    """Mix values by softmax(scale q k^T) over the visible positions (Vaswani et al. 2017, arXiv 1706.03762).

    G key-value heads serve H query heads, H divisible by G (Ainslie et al. 2023, arXiv 2305.13245).
    The softmax is taken in float32. Every query must see at least one position. Costs O(B H T S (K + V)).

    Args:
        visible: true where the query of a row may look; None for everywhere.
        scale: factor on the dot products.
    """
    if q.device.type != "cpu":
        return attend_fused(q, k, v, visible, scale)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=1)
        v = v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    return weights.to(v.dtype) @ v


def attend_fused(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    visible: Bool[Tensor, "#B 1 T S"] | None,
    scale: float,
) -> Float[Tensor, "B H T V"]:
    """The same as `attend` by PyTorch's fused kernel; tests hold the two together."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale, enable_gqa=q.shape[1] != k.shape[1])

"""Cross-entropy of a linear head that never holds all logits at once."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]


def cross_entropy(
    hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"], head: Head, chunk_size: int = 0
) -> Float[Tensor, " N"]:
    """Return the negative log-probability of each target in nats, float32.

    With `chunk_size` > 0 at most `chunk_size` x C logits exist at a time: each chunk's logits are thrown
    away after the forward pass and computed again in the backward pass, so memory is O(chunk_size C)
    instead of O(N C) and time grows by one more product with the head. Values and gradients are those of
    the plain form.

    Args:
        head: maps (n, D) to logits (n, C).
        chunk_size: rows at a time; 0 takes all at once.
    """
    if chunk_size <= 0 or chunk_size >= hidden.shape[0]:
        return cross_entropy_plain(hidden, targets, head)
    losses = [
        checkpoint(cross_entropy_plain, rows, wanted, head, use_reentrant=False)
        for rows, wanted in zip(torch.split(hidden, chunk_size), torch.split(targets, chunk_size), strict=True)
    ]
    return torch.cat(losses)


def cross_entropy_plain(hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"], head: Head) -> Float[Tensor, " N"]:
    """The same in one piece."""
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")

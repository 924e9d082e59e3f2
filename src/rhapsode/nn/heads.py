"""Vectors to logits."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rhapsode.nn.linear import Linear


class UntiedHead(nn.Module):
    """Logits by a matrix of its own."""

    def __init__(self, width: int, vocab_size: int, table: nn.Embedding) -> None:
        super().__init__()
        self.linear = Linear(width, vocab_size)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to vocabulary."""
        out: Tensor = self.linear(x)
        return out


class TiedHead(nn.Module):
    """Logits by the embedding table (Press & Wolf 2016, arXiv 1608.05859). It owns no parameters."""

    def __init__(self, width: int, vocab_size: int, table: nn.Embedding) -> None:
        super().__init__()
        # kept out of the module tree: the table belongs to the embedder and is saved once.
        self._table = [table]

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to vocabulary."""
        return F.linear(x, self._table[0].weight.to(x.dtype))


def soft_cap(logits: Float[Tensor, "*N C"], cap: float) -> Float[Tensor, "*N C"]:
    """cap tanh(logits / cap): logits cannot grow without bound (Gemma 2, 2024, arXiv 2408.00118). 0: no cap."""
    return cap * (logits / cap).tanh() if cap else logits

"""Vectors to logits."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rhapsode.nn.config import FactoredHeadConfig
from rhapsode.nn.linear import Linear


class UntiedHead(nn.Module):
    """Logits by a matrix of its own."""

    def __init__(self, width: int, vocab_size: int, table: nn.Module, config: FactoredHeadConfig) -> None:
        super().__init__()
        self.linear = Linear(width, vocab_size)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to vocabulary."""
        out: Tensor = self.linear(x)
        return out


class TiedHead(nn.Module):
    """Logits by the embedding table (Press & Wolf 2016, arXiv 1608.05859). It owns no parameters."""

    def __init__(self, width: int, vocab_size: int, table: nn.Module, config: FactoredHeadConfig) -> None:
        super().__init__()
        # kept out of the module tree: the table belongs to the embedder and is saved once.
        self._table = [table]

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to vocabulary."""
        return F.linear(x, self.table.to(x.dtype))

    @property
    def table(self) -> Float[Tensor, "C D"]:
        """The vectors of all ids; a compressed embedding makes them on every call."""
        weight = self._table[0].weight
        assert isinstance(weight, Tensor)
        return weight


class FactoredHead(nn.Module):
    """Logits of declared rank: U V x, with `rank` features between width and vocabulary.

    (width + C) x rank parameters instead of width x C (the softmax bottleneck is Yang et al. 2017, arXiv 1711.03953).
    """

    def __init__(self, width: int, vocab_size: int, table: nn.Module, config: FactoredHeadConfig) -> None:
        super().__init__()
        self.features = Linear(width, config.rank)
        self.logits = Linear(config.rank, vocab_size)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to rank to vocabulary."""
        out: Tensor = self.logits(self.features(x))
        return out


class SquaredAmplitudeHead(FactoredHead):
    """The same with features z^2 / mean(z^2): only their sizes count, not their signs."""

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Map width to rank, square and normalise, then to vocabulary."""
        squares = self.features(x).float().square()
        # the mean, not the sum, is one: logits begin to move as fast as those of the plain head.
        shares = squares / (squares.mean(dim=-1, keepdim=True) + 1e-6)
        out: Tensor = self.logits(shares.to(x.dtype))
        return out


def soft_cap(logits: Float[Tensor, "*N C"], cap: float) -> Float[Tensor, "*N C"]:
    """cap tanh(logits / cap): logits cannot grow without bound (Gemma 2, 2024, arXiv 2408.00118). 0: no cap."""
    return cap * (logits / cap).tanh() if cap else logits

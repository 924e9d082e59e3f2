"""The position-wise half of a block."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rhapsode.nn.linear import Linear


class SquaredReluFeedForward(nn.Module):
    """W2 relu(W1 x)^2 (So et al. 2021, arXiv 2109.08668)."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.up = Linear(width, int(width * ratio))
        self.down = Linear(int(width * ratio), width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Map every position by itself."""
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class GeluFeedForward(SquaredReluFeedForward):
    """W2 gelu(W1 x) (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Map every position by itself."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out

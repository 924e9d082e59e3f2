"""Normalisation of the last axis."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def rms_norm(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """x / rms(x), without a learnt gain (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],))


class RMSNorm(nn.Module):
    """`rms_norm` as a module; it has no parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Normalise the last axis."""
        return rms_norm(x)


class LayerNorm(nn.Module):
    """(x - mean) / deviation, with learnt gain and bias (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Normalise the last axis."""
        return F.layer_norm(x, (x.shape[-1],), self.gain.to(x.dtype), self.bias.to(x.dtype))


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}

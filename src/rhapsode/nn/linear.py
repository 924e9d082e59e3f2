"""A linear map that computes in the precision of its input."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Module):
    """y = W x, without a bias. The float32 weight is cast to the input's dtype, so one model serves
    bfloat16 training and float32 decoding with no autocast.

    Several output sizes make one product of several maps that read the same input; `parts` tells the
    optimizer where one ends and the next begins.
    """

    def __init__(self, in_dim: int, *out_dims: int) -> None:
        super().__init__()
        self.parts = out_dims
        self.weight = nn.Parameter(torch.empty(sum(out_dims), in_dim))

    def forward(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Map the last axis from in_dim to the sum of out_dims."""
        return F.linear(x, self.weight.to(x.dtype))

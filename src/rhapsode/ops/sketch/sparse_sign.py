"""Sparse sign matrices: the plain control beside CountSketch and SRHT.

Each entry is +-sqrt(q / M) with probability 1 / q in all, else 0 (Achlioptas 2003; Li et al. 2006), q = 1 / density.
E<xS, yS> = <x, y>; the variance is at most (|x|^2 |y|^2 + <x, y>^2 + (q - 3) sum x_i^2 y_i^2) / M.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.sketch.hashing import mix


@dataclass(frozen=True)
class SparseSign:
    """A random N x M matrix of signs, most of them zero.

    Raises:
        UserError: if the density is not in (0, 1].
    """

    num_inputs: int
    out_dim: int
    density: float = 1 / 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UserError(f"density must be above 0 and at most 1; got {self.density}. 1/3 is usual.")

    def matrix(self, device: torch.device | str | None = None) -> Float[Tensor, "N M"]:
        """Return the matrix, dense float32: O(N M) memory."""
        mixed = mix(torch.arange(self.num_inputs * self.out_dim, device=device), self.seed + 1)
        # bits above the sign, so that sign and choice are independent.
        chosen = (mixed >> 23).double() < self.density * 2.0**40
        values = (2 * (mixed & 1) - 1) * chosen / math.sqrt(self.density * self.out_dim)
        return values.float().reshape(self.num_inputs, self.out_dim)

    def project(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return x S in the dtype of `x`, summed in float32: O(B N M) by a dense product.

        Raises:
            UserError: if the rows have another length.
        """
        if x.shape[1] != self.num_inputs:
            raise UserError(f"x must have {self.num_inputs} columns; got {x.shape[1]}. Change num_inputs.")
        return (x.float() @ self.matrix(x.device)).to(x.dtype)

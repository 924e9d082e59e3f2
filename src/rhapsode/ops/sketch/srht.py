"""Block SRHT: the subsampled randomised Hadamard transform, block by block, into one short vector.

y = sqrt(L / M) sum_b E_b R H D_b x_b, where x_b is block b of L inputs, D_b and E_b are random signs, H is the
orthonormal Walsh-Hadamard matrix and R keeps the same M of L rows for all blocks (Balabanov et al. 2022, arXiv
2210.11295; one block: Ailon and Chazelle 2006, Tropp 2011, arXiv 1011.1595). E<y, y'> = <x, x'>, with a variance of
order |x|^2 |x'|^2 / M. No block is normalised on its own: that would destroy inner products. Without the signs E_b
what two blocks have in common would be added up with the same sign in every row.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.sketch.hashing import random_signs, random_subset
from rhapsode.ops.sketch.walsh_hadamard import hadamard_matrix, next_power_of_two, walsh_hadamard


@dataclass(frozen=True)
class BlockSRHT:
    """A projection from `num_inputs` to `out_dim`, regenerated from its seed.

    The input is padded with zeros to whole blocks of `block_size`. Signs take 4 bytes an input on `device`.

    Args:
        block_size: a power of two of at least `out_dim`; 0 takes the smallest such that holds `out_dim` or 4,096.

    Raises:
        UserError: if sizes do not fit.
    """

    num_inputs: int
    out_dim: int
    block_size: int = 0
    seed: int = 0
    device: str = "cpu"
    _signs: Tensor = field(init=False, repr=False, compare=False)
    _out_signs: Tensor = field(init=False, repr=False, compare=False)
    _rows: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_inputs < 1 or self.out_dim < 1:
            raise UserError(f"num_inputs and out_dim must be at least 1; got {self.num_inputs} and {self.out_dim}.")
        size = self.block_size or next_power_of_two(max(self.out_dim, min(self.num_inputs, 4096)))
        if size & (size - 1) or size < self.out_dim:
            raise UserError(
                f"block_size must be a power of two of at least out_dim = {self.out_dim}; got {size}. "
                f"Try {next_power_of_two(max(size, self.out_dim))}."
            )
        blocks = -(-self.num_inputs // size)
        values = {
            "block_size": size,
            "_signs": random_signs(blocks * size, self.seed * 4 + 1, self.device).reshape(blocks, size).float(),
            "_out_signs": random_signs(blocks * self.out_dim, self.seed * 4 + 2, self.device)
            .reshape(blocks, -1)
            .float(),
            "_rows": random_subset(size, self.out_dim, self.seed * 4 + 3, self.device),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def project(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Return y in the dtype of `x`, summed in float32: O(B N log L). Differentiable.

        Raises:
            UserError: if the rows have another length.
        """
        if x.shape[1] != self.num_inputs:
            raise UserError(f"x must have {self.num_inputs} columns; got {x.shape[1]}. Change num_inputs.")
        blocks, size = self._signs.shape
        padded = torch.nn.functional.pad(x.float(), (0, blocks * size - self.num_inputs))
        mixed = walsh_hadamard(padded.reshape(len(x), blocks, size) * self._signs)
        kept = mixed if self.out_dim == size else mixed[..., self._rows]
        return ((kept * self._out_signs).sum(1) * math.sqrt(size / self.out_dim)).to(x.dtype)

    def matrix(self) -> Float[Tensor, "N M"]:
        """Return the projection as a dense matrix, made of H itself, as the plain twin: y = x S."""
        rows = hadamard_matrix(self.block_size, device=self.device)[:, self._rows]
        scale = math.sqrt(self.block_size / self.out_dim)
        blocks = [d[:, None] * rows * e * scale for d, e in zip(self._signs, self._out_signs, strict=True)]
        return torch.cat(blocks)[: self.num_inputs]

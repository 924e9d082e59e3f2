"""Signed CountSketch: each input coordinate is added, with random signs, to a few of M buckets.

y[h_j(i)] += g_j(i) x[i] / sqrt(s) for j < s hashes (Charikar et al. 2002; several hashes in segments of their own:
Kane and Nelson 2014, arXiv 1012.1577). Linear, E<Sx, Sy> = <x, y>, and the variance of <Sx, Sy> is at most
(|x|^2 |y|^2 + <x, y>^2) / M.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.sketch.hashing import mix

PADDING = -1


@dataclass(frozen=True)
class CountSketch:
    """A sketch of any number of coordinates into `num_buckets`; nothing but a seed is stored.

    Hash j has the segment of num_buckets / num_hashes buckets that starts at j num_buckets / num_hashes.

    Raises:
        UserError: if `num_hashes` does not divide `num_buckets`.
    """

    num_buckets: int
    num_hashes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_hashes < 1 or self.num_buckets < 1 or self.num_buckets % self.num_hashes:
            raise UserError(
                f"num_buckets must be a positive multiple of num_hashes; got {self.num_buckets} and {self.num_hashes}. "
                f"Try {max(1, round(self.num_buckets / max(1, self.num_hashes))) * max(1, self.num_hashes)} buckets."
            )

    def hashes(self, ids: Int64[Tensor, "*S"]) -> tuple[Int64[Tensor, "*S s"], Int64[Tensor, "*S s"]]:
        """Return the buckets and the signs of coordinates."""
        segment = self.num_buckets // self.num_hashes
        mixed = torch.stack([mix(ids, self.seed * 64 + 1 + j) for j in range(self.num_hashes)], -1)
        starts = torch.arange(self.num_hashes, device=ids.device) * segment
        # the lowest bit is the sign; the bucket comes from others.
        return (mixed >> 1) % segment + starts, 2 * (mixed & 1) - 1

    def tables(self, num_inputs: int, device: torch.device | str | None = None) -> "SketchTables":
        """Return the hashes of the first `num_inputs` coordinates, kept for dense inputs: 12 bytes each a hash."""
        buckets, signs = self.hashes(torch.arange(num_inputs, device=device))
        return SketchTables(self.num_buckets, buckets.T.contiguous(), (signs.T / math.sqrt(self.num_hashes)).float())

    def sparse(
        self, ids: Int64[Tensor, "B K"], values: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B {self.num_buckets}"]:
        """Sketch rows given by their non-zero coordinates, in float32: O(B K s).

        Args:
            ids: coordinates of any size from 0 on; -1 is padding. A coordinate that occurs twice counts twice.
            values: what stands there; 1 if None. Differentiable.
        """
        buckets, signs = self.hashes(ids)
        weights = signs * (ids >= 0).unsqueeze(-1) / math.sqrt(self.num_hashes)
        if values is not None:
            weights = weights * values.float().unsqueeze(-1)
        zeros = torch.zeros(len(ids), self.num_buckets, device=ids.device)
        return zeros.scatter_add(1, buckets.flatten(1), weights.float().flatten(1))


@dataclass(frozen=True)
class SketchTables:
    """The buckets and the signed weights of a fixed number of coordinates, one row a hash."""

    num_buckets: int
    buckets: Int64[Tensor, "s N"]
    weights: Float[Tensor, "s N"]

    def dense(self, x: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        """Sketch dense rows: O(B N s), summed in float32, returned in float32.

        Raises:
            UserError: if the rows are not as long as the tables.
        """
        _check_width(x, self.buckets.shape[1])
        # rows of the transposed input are contiguous: adding whole rows is what index_add does fast.
        columns = x.float().T.contiguous()
        total = torch.zeros(self.num_buckets, len(x), device=x.device)
        for buckets, weights in zip(self.buckets, self.weights, strict=True):
            total = total.index_add(0, buckets, columns * weights.unsqueeze(1))
        return total.T

    def matrix(self) -> Float[Tensor, "N M"]:
        """Return the sketch as a dense matrix, for inspection and as the plain twin: y = x S."""
        matrix = torch.zeros(self.buckets.shape[1], self.num_buckets, device=self.buckets.device)
        for buckets, weights in zip(self.buckets, self.weights, strict=True):
            matrix.scatter_add_(1, buckets.unsqueeze(1), weights.unsqueeze(1))
        return matrix


def _check_width(x: Shaped[Tensor, "B N"], width: int) -> None:
    if x.shape[1] != width:
        raise UserError(f"x must have {width} columns; got {x.shape[1]}. Make the sketch for the width of its input.")

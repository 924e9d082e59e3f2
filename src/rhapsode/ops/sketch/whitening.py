"""Whitening that is fitted once on streamed features and then frozen, with hyperplanes carried along."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import StateError, UserError

Kind = Literal["none", "pca", "zca"]


class StreamingCovariance:
    """Mean and covariance of rows that come in batches (Chan et al. 1979, pairwise update).

    Sums are kept in `dtype`, float32 or float64; D x D numbers. The batches may be in any precision.

    Raises:
        UserError: if the dtype is another.
    """

    def __init__(self, dim: int, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise UserError(f"dtype must be float32 or float64; got {dtype}. Sums in 16 bits lose small terms.")
        self.count = 0
        self.mean = torch.zeros(dim, dtype=dtype, device=device)
        self._scatter = torch.zeros(dim, dim, dtype=dtype, device=device)

    def update(self, x: Float[Tensor, "B D"]) -> None:
        """Add rows: O(B D^2).

        Raises:
            UserError: if a number is not finite or the width is another; nothing is added then.
        """
        if x.shape[1] != len(self.mean):
            raise UserError(f"x must have {len(self.mean)} columns; got {x.shape[1]}.")
        if not torch.isfinite(x).all():
            raise UserError("x must be finite; got NaN or infinity. Remove such rows before whitening is fitted.")
        if not len(x):
            return
        rows = x.detach().to(self.mean.dtype)
        mean = rows.mean(0)
        centred = rows - mean
        difference = mean - self.mean
        total = self.count + len(x)
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(difference, difference, alpha=self.count * len(x) / total)
        self.mean += difference * (len(x) / total)
        self.count = total

    def covariance(self) -> Float[Tensor, "D D"]:
        """Return the unbiased covariance.

        Raises:
            StateError: with fewer than two rows.
        """
        if self.count < 2:
            raise StateError(f"whitening needs at least 2 rows; got {self.count}. Show it more features first.")
        return self._scatter / (self.count - 1)


@dataclass(frozen=True)
class Whitening:
    """y = (x - mean) forward, and x = y backward + mean. Frozen: fitted by `fit_whitening`.

    With the kind `none` the two matrices are empty and y = x.
    """

    kind: str
    mean: Float[Tensor, " D"]
    forward: Float[Tensor, "R1 R2"]
    backward: Float[Tensor, "R2 R1"]

    def apply(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B R"]:
        """Return y in the dtype of `x`, summed in float32: O(B D R). Differentiable."""
        if self.kind == "none":
            return x
        return ((x.float() - self.mean) @ self.forward).to(x.dtype)

    def invert(self, y: Float[Tensor, "B R"]) -> Float[Tensor, "B D"]:
        """Return x again, up to rounding."""
        if self.kind == "none":
            return y
        return (y.float() @ self.backward + self.mean).to(y.dtype)

    def map_hyperplanes(
        self, normals: Float[Tensor, "N D"], offsets: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N R"], Float[Tensor, " N"]]:
        """Return normals and offsets that give y the signed numbers n . x + offset that the old ones gave x.

        n . x + offset = (backward n) . y + (offset + n . mean). The new normals are not of unit length: their length is
        what keeps the numbers, so a unit must not normalise them again.
        """
        if self.kind == "none":
            return normals, offsets
        wide = normals.float()
        return (wide @ self.backward.T).to(normals.dtype), (offsets.float() + wide @ self.mean).to(offsets.dtype)


def fit_whitening(statistics: StreamingCovariance, kind: Kind, epsilon: float = 1e-3) -> Whitening:
    """Return the whitening of what was streamed: O(D^3) once.

    With C = U diag(l) U^T, pca is U diag(l + e)^-1/2 and zca is pca U^T, the whitening that moves points least (Bell
    and Sejnowski 1997). e is `epsilon` times the mean of l, so that a constant direction is not blown up.

    Raises:
        UserError: if epsilon is not positive.
        StateError: with fewer than two rows, or if nothing varied.
    """
    if epsilon <= 0:
        raise UserError(f"epsilon must be above 0; got {epsilon}. Directions without variance need it.")
    if kind == "none":
        return no_whitening(len(statistics.mean), statistics.mean.device)
    values, vectors = torch.linalg.eigh(statistics.covariance().double())
    values = values.clamp_min(0)
    if not values.sum() > 0:
        raise StateError("whitening needs features that vary; got constant ones. Use whiten = none.")
    roots = (values + epsilon * values.mean()).sqrt()
    forward, backward = vectors / roots, (vectors * roots).T
    if kind == "zca":
        forward, backward = forward @ vectors.T, vectors @ backward
    return Whitening(kind, statistics.mean.float(), forward.float().contiguous(), backward.float().contiguous())


def no_whitening(dim: int, device: torch.device | str | None = None) -> Whitening:
    """Return the whitening that changes nothing; it holds no matrices."""
    empty = torch.zeros(0, 0, device=device)
    return Whitening("none", torch.zeros(dim, device=device), empty, empty)

"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_angles(
    positions: Int[Tensor, " T"], head_dim: int, base: float
) -> tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]:
    """Return cosines and sines of position x frequency, float32, for `head_dim / 2` frequencies."""
    half = head_dim // 2
    frequencies = base ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[:, None] * frequencies
    return angles.cos(), angles.sin()


class RecentAngles:
    """The angles of the last call, for the layers of a model, which all ask for the same positions.

    Threads may share one: each call reads or writes one reference.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, float, tuple[Tensor, Tensor]] | None = None

    def __call__(
        self, positions: Int[Tensor, " T"], head_dim: int, base: float
    ) -> tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]:
        """Return `rotary_angles`, without computing if `positions` is the very tensor of the last call."""
        last = self._last
        if last is None or last[0] is not positions or last[1:3] != (head_dim, base):
            last = (positions, head_dim, base, rotary_angles(positions, head_dim, base))
            self._last = last
        return last[3]


def rotate(
    x: Float[Tensor, "B H T K"], angles: tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]
) -> Float[Tensor, "B H T K"]:
    """Turn the pair (x[i], x[i + K/2]) by its angle; dot products then depend on distances only."""
    cosine, sine = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine + second * sine, second * cosine - first * sine], dim=-1)

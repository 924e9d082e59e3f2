"""Rotary embedding: a turn of complex numbers, after which only distances matter."""

import pytest
import torch
from torch import Tensor

from rhapsode.ops.rotary import rotary_angles, rotate


def rotate_plain(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """The pair (x[i], x[i + K/2]) as a complex number times exp(-i position base^(-2i/K)), float64."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, dtype=torch.float64) * 2 / x.shape[-1])
    angles = positions.double()[:, None] * frequencies
    numbers = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = numbers * torch.polar(torch.ones_like(angles), -angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


@pytest.mark.parametrize("head_dim", [2, 6, 64])
@pytest.mark.parametrize("base", [100.0, 10_000.0])
def test_equals_complex_multiplication(head_dim: int, base: float) -> None:
    x = torch.randn(2, 3, 50, head_dim, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(50) * 13
    # an angle of 640 radians is rounded to 2^-15 in float32, and that turns the pair by as much.
    torch.testing.assert_close(
        rotate(x, rotary_angles(positions, head_dim, base)),
        rotate_plain(x, positions, base).float(),
        rtol=0,
        atol=4 * 2**-15,
    )


@pytest.mark.parametrize("offset", [1, 100, 1000])
def test_scores_depend_on_distance_only(offset: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 2, 40, 16, generator=generator)

    def scores(positions: Tensor) -> Tensor:
        angles = rotary_angles(positions, 16, 10_000.0)
        return rotate(q, angles) @ rotate(k, angles).transpose(-1, -2)

    positions = torch.randint(0, 200, (40,), generator=generator)
    # angles near 1200 are rounded to 2^-14, on each side, times |q| |k| of at most about 40.
    torch.testing.assert_close(scores(positions), scores(positions + offset), rtol=0, atol=2 * 40 * 2**-14)
    # and they do depend on distance.
    assert (scores(positions) - scores(positions * 2)).abs().max() > 1


def test_position_zero_is_the_identity_and_lengths_stay() -> None:
    x = torch.randn(1, 2, 7, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(rotate(x, rotary_angles(torch.zeros(7, dtype=torch.int64), 8, 10_000.0)), x)
    turned = rotate(x, rotary_angles(torch.arange(7) * 1000, 8, 10_000.0))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_the_type_stays_and_angles_are_float32() -> None:
    angles = rotary_angles(torch.arange(3), 4, 10_000.0)
    assert {part.dtype for part in angles} == {torch.float32}
    assert rotate(torch.randn(1, 1, 3, 4).bfloat16(), angles).dtype == torch.bfloat16

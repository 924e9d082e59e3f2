"""Weights of a unit's three controls along its signed distance, five ways.

A unit has a control at the negative edge of its band, at its plane, and at the positive edge. With the bands b- and b+
(both positive) a signed distance s is clipped to [-b-, b+], and the local value is

    value(s) = w_neg(s) c_neg + w_mid(s) c_mid + w_pos(s) c_pos,   w_neg + w_mid + w_pos = 1.

Every kind passes through its controls at -b-, 0 and b+, is continuous, and is constant past the edges:

    lerp         two straight pieces (the hinge of Breiman 1993)
    hermite      two cubics; slope at the plane (c_pos - c_neg) / (b- + b+), flat at the edges: smooth everywhere
    catmull_rom  two cubics; slope at the plane that of the parabola through all three, the secant's at the edges
                 (Catmull & Rom 1974, for unequal spacing Barry & Goldman 1988)
    local_poly   one parabola
    wavelet      the hat of half the band around the plane (a linear B-spline at scale 1/2) weighs the middle control,
                 and the outer ones take the rest

Slopes are taken in the distance itself, not in its share of the band, so unequal bands make no kink at the plane.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

INTERPOLATIONS = ("lerp", "hermite", "catmull_rom", "local_poly", "wavelet")


def interpolation_weights(
    distances: Float[Tensor, "*S"], negative: Float[Tensor, "*S"], positive: Float[Tensor, "*S"], kind: str
) -> Float[Tensor, "*S 3"]:
    """Return the weights of the negative, middle and positive control.

    Args:
        distances: signed distances.
        negative: b-, greater than 0.
        positive: b+, greater than 0.
        kind: one of INTERPOLATIONS.

    Returns:
        weights that sum to one, differentiable in all three arguments. Costs O(1) an element.
    """
    clipped = torch.minimum(torch.maximum(distances, -negative), positive)
    outer_neg, outer_pos = _KINDS[kind](clipped, negative, positive)
    return torch.stack([outer_neg, 1 - outer_neg - outer_pos, outer_pos], dim=-1)


def interpolation_weights_plain(
    distance: float, negative: float, positive: float, kind: str
) -> tuple[float, float, float]:
    """The same for one distance: each cubic from its four Hermite data, control by control."""
    s = min(max(distance, -negative), positive)
    if kind == "local_poly":
        neg = s * (s - positive) / (negative * (negative + positive))
        mid = (s + negative) * (positive - s) / (negative * positive)
        return neg, mid, s * (s + negative) / (positive * (negative + positive))
    band = positive if s >= 0 else negative
    t = abs(s) / band
    near, far = 1 - t, t
    if kind == "wavelet":
        near = max(0.0, 1 - 2 * t)
        far = 1 - near
    weights = [0.0, near, far] if s >= 0 else [far, near, 0.0]
    if kind in ("hermite", "catmull_rom"):
        weights = [_cubic_plain(s, negative, positive, [float(i == j) for j in range(3)], kind) for i in range(3)]
    return weights[0], weights[1], weights[2]


def _cubic_plain(s: float, negative: float, positive: float, controls: list[float], kind: str) -> float:
    c_neg, c_mid, c_pos = controls
    left, right = (c_mid - c_neg) / negative, (c_pos - c_mid) / positive
    total = negative + positive
    if kind == "hermite":
        slopes = [0.0, (c_pos - c_neg) / total, 0.0]
    else:
        slopes = [left, (left * positive + right * negative) / total, right]
    side = 1 if s >= 0 else 0
    width = positive if side else negative
    t = s / width if side else (s + negative) / width
    start, end = controls[side], controls[side + 1]
    return (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * width * slopes[side]
        + (-2 * t**3 + 3 * t**2) * end
        + (t**3 - t**2) * width * slopes[side + 1]
    )


# each returns the weights of the outer controls; the middle one has the rest, so that the sum is one by construction.
_Pair = tuple[Tensor, Tensor]


def _shares(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    return (-s).clamp_min(0) / negative, s.clamp_min(0) / positive


def _lerp(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    return _shares(s, negative, positive)


def _wavelet(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    u, t = _shares(s, negative, positive)
    return (2 * u).clamp_max(1), (2 * t).clamp_max(1)


def _local_poly(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    total = negative + positive
    return s * (s - positive) / (negative * total), s * (s + negative) / (positive * total)


def _hermite(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    # u and t are the shares of the band on either side; one of them is zero.
    u, t = _shares(s, negative, positive)
    total = negative + positive
    # the cubic that starts with slope one at the plane and ends flat at zero; odd across the plane.
    bend = (t * (1 - t) ** 2) * positive - (u * (1 - u) ** 2) * negative
    return u * u * (3 - 2 * u) - bend / total, t * t * (3 - 2 * t) + bend / total


def _catmull_rom(s: Tensor, negative: Tensor, positive: Tensor) -> _Pair:
    u, t = _shares(s, negative, positive)
    total = negative + positive
    bend = (t * (1 - t) ** 2) * positive - (u * (1 - u) ** 2) * negative
    # the slope at the edge is the secant's, (outer - middle) / band.
    neg = u * u * (3 - 2 * u) + u * u * (u - 1) - bend * positive / (negative * total)
    pos = t * t * (3 - 2 * t) + t * t * (t - 1) + bend * negative / (positive * total)
    return neg, pos


_KINDS: dict[str, Callable[[Tensor, Tensor, Tensor], _Pair]] = {
    "lerp": _lerp,
    "hermite": _hermite,
    "catmull_rom": _catmull_rom,
    "local_poly": _local_poly,
    "wavelet": _wavelet,
}

"""How far a unit is from an input, and how much of the blend it gets.

The energy of a unit is a squared distance; the K units of least energy are active, and the same energy decides their
weights, so that the search metric is the gate metric:

    slab     (n.x + delta)^2               distance to the plane: not local in high dimension
    ball     |x - c|^2                     distance to a learnt centre
    product  (n.x + delta)^2 + |x - c|^2   the product of both Gaussians

Weights of the active units, with one temperature tau for all:

    softmax  exp(-energy / (2 tau^2)), normalised: a normalised radial basis (Moody & Darken 1989)
    inverse  1 / (sqrt(energy) + tau), normalised (Shepard 1968)
"""

import torch
from jaxtyping import Float
from torch import Tensor

GATES = ("slab", "ball", "product")
BLENDS = ("softmax", "inverse")
# keeps the slope of the square root finite on a plane or at a centre.
_TINY = 1e-12


def energies(
    distances: Float[Tensor, "*S"] | None, squared_radii: Float[Tensor, "*S"] | None, gate: str
) -> Float[Tensor, "*S"]:
    """Combine signed plane distances and squared centre distances; the one that a gate does not read may be None."""
    if gate == "slab":
        assert distances is not None
        return distances.square()
    assert squared_radii is not None
    if gate == "ball":
        return squared_radii
    assert distances is not None
    return distances.square() + squared_radii


def all_distances(
    x: Float[Tensor, "B D"], normals: Float[Tensor, "N D"], offsets: Float[Tensor, " N"]
) -> Float[Tensor, "B N"]:
    """Return n.x + delta of every unit. O(B N D)."""
    return torch.addmm(offsets, x, normals.T)


def all_squared_radii(x: Float[Tensor, "B D"], centres: Float[Tensor, "N D"]) -> Float[Tensor, "B N"]:
    """Return |x - c|^2 of every unit by one product. O(B N D); exact to the rounding of |x|^2 + |c|^2."""
    lengths = centres.square().sum(1) + x.square().sum(1, keepdim=True)
    return torch.addmm(lengths, x, centres.T, alpha=-2).clamp_min(0)


def blend_weights(energy: Float[Tensor, "B K"], temperature: Float[Tensor, ""], blend: str) -> Float[Tensor, "B K"]:
    """Return weights of the active units that sum to one."""
    if blend == "softmax":
        return torch.softmax(-energy / (2 * temperature.square()), dim=-1)
    weights = 1 / ((energy + _TINY).sqrt() + temperature)
    return weights / weights.sum(-1, keepdim=True)


def effective_units(weights: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """Return exp(entropy) of the weights: K when they are flat, 1 when one unit decides."""
    effective: Tensor = torch.special.entr(weights).sum(-1).exp()
    return effective

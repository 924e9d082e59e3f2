"""The value of a field: gates, local values along the normals, and their blend.

For input x with active units A(x):

    s_i = n_i . x + delta_i        signed distance to the plane
    v_i = sum_j w_j(s_i) c_ij      three controls, interpolated; R numbers
    f(x) = sum_{i in A} a_i v_i    with blend weights a_i that sum to one

Local-linear experts under a gate (Jacobs et al. 1991; Vijayakumar & Schaal 2000). Every step is differentiable, the
choice of A excepted.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.field.gates import all_distances, all_squared_radii, blend_weights, energies
from rhapsode.ops.field.interpolation import interpolation_weights, interpolation_weights_plain
from rhapsode.ops.field.products import active_products


class Units(NamedTuple):
    """Tables of N units; D is the width of the input and R that of a control.

    normals (N, D); offsets (N,); bands (N, 2), both edges as positive lengths; controls (N, 3, R), negative, middle,
    positive; centres (N, D), or None under the slab gate, which reads none.
    """

    normals: Tensor
    offsets: Tensor
    bands: Tensor
    controls: Tensor
    centres: Tensor | None


class Shape(NamedTuple):
    """Which gate, blend and interpolation; the names are those of their modules."""

    gate: str
    blend: str
    interpolation: str


class FieldParts(NamedTuple):
    """A field's value (B, R) and how it came about: weights, signed distances and energies (B, K)."""

    values: Tensor
    weights: Tensor
    distances: Tensor
    energies: Tensor


def evaluate(
    x: Float[Tensor, "B D"], units: Units, ids: Int[Tensor, "B K"] | None, temperature: Float[Tensor, ""], shape: Shape
) -> FieldParts:
    """Return the blended value of the active units.

    Args:
        ids: the active units of every input; None for all of them, which is one dense product.
        temperature: greater than 0, in units of distance.

    Cost: O(B K (D + R)), or O(B N (D + R)) where ids is None or the field is small.
    """
    distances, radii = _geometry(x, units, ids, shape.gate)
    return blend(distances, radii, units.bands, units.controls, ids, temperature, shape)


def blend(
    distances: Float[Tensor, "B K"],
    radii: Float[Tensor, "B K"] | None,
    bands: Float[Tensor, "N 2"],
    controls: Float[Tensor, "N 3 R"],
    ids: Int[Tensor, "B K"] | None,
    temperature: Float[Tensor, ""],
    shape: Shape,
) -> FieldParts:
    """The same where the units' distances to every input, and its squared distances to their centres, are known."""
    energy = energies(distances, radii, shape.gate)
    weights = blend_weights(energy, temperature, shape.blend)
    bands = bands if ids is None else bands[ids]
    inner = interpolation_weights(
        distances,
        bands[..., 0].expand_as(distances),
        bands[..., 1].expand_as(distances),
        shape.interpolation,
    )
    shares = (weights.unsqueeze(-1) * inner).flatten(1)
    table = controls.flatten(0, 1)
    if ids is None:
        values = shares @ table
    else:
        slots = (ids.unsqueeze(-1) * 3 + torch.arange(3, device=ids.device)).flatten(1)
        values = F.embedding_bag(slots, table, per_sample_weights=shares.to(table.dtype), mode="sum")
    return FieldParts(values, weights, distances, energy)


def evaluate_plain(
    x: Float[Tensor, "B D"], units: Units, ids: Int[Tensor, "B K"], temperature: float, shape: Shape
) -> Float[Tensor, "B R"]:
    """The same unit by unit."""
    rows = []
    for b in range(x.shape[0]):
        gates, values = [], []
        for i in ids[b].tolist():
            s = float(units.normals[i] @ x[b] + units.offsets[i])
            radius = 0.0 if units.centres is None else float((x[b] - units.centres[i]).square().sum())
            energy = {"slab": s * s, "ball": radius, "product": s * s + radius}[shape.gate]
            gates.append(
                -energy / (2 * temperature**2) if shape.blend == "softmax" else 1 / (energy**0.5 + temperature)
            )
            negative, positive = units.bands[i].tolist()
            inner = interpolation_weights_plain(s, negative, positive, shape.interpolation)
            values.append(sum(w * control for w, control in zip(inner, units.controls[i], strict=True)))
        raw = torch.tensor(gates, dtype=x.dtype)
        weights = torch.softmax(raw, 0) if shape.blend == "softmax" else raw / raw.sum()
        rows.append(sum(w * value for w, value in zip(weights, values, strict=True)))
    return torch.stack([torch.as_tensor(row) for row in rows])


def _geometry(x: Tensor, units: Units, ids: Tensor | None, gate: str) -> tuple[Tensor, Tensor | None]:
    small = ids is not None and units.normals.shape[0] <= 4 * ids.shape[1]
    if ids is None or small:
        distances = all_distances(x, units.normals, units.offsets)
        radii = None if gate == "slab" or units.centres is None else all_squared_radii(x, units.centres)
        if ids is None:
            return distances, radii
        return distances.gather(1, ids), None if radii is None else radii.gather(1, ids)
    distances = active_products(x, units.normals, ids) + units.offsets[ids]
    if gate == "slab" or units.centres is None:
        return distances, None
    lengths = units.centres.square().sum(1)[ids] + x.square().sum(1, keepdim=True)
    return distances, (lengths - 2 * active_products(x, units.centres, ids)).clamp_min(0)

"""Units in bfloat16, for a first pass that only has to keep the near ones among its best.

Rounding is relative to what is rounded, and energies stay as they are if inputs and units are moved alike: so an origin
near the inputs goes to zero first, in full precision, and what is rounded is only how things differ from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from rhapsode.ops.field.gates import energies

_LOW = torch.bfloat16
# units that are cast at once, so that nothing of the size of a table is made in float32.
_BLOCK = 8192


@dataclass(frozen=True)
class LowUnits:
    """N units about an origin: 2 N (D + 3) bytes of planes, 2 N D of centres, of which a gate has one or both.

    Attributes:
        origin: float32 (D,).
        planes: normals, and three numbers that add up to the signed distance of the origin.
        centres: less the origin.
        lengths: |centre - origin|^2 in float32.
    """

    origin: Float[Tensor, " D"]
    planes: BFloat16[Tensor, "N D_plus_3"] | None
    centres: BFloat16[Tensor, "N D"] | None
    lengths: Float[Tensor, " N"] | None

    def energies(self, x: Float[Tensor, "B D"], units: slice, gate: str) -> Float[Tensor, "B M"]:
        """Return the energies of a stretch of units. O(B M D) in bfloat16, summed in float32."""
        distances = radii = None
        moved = x - self.origin
        low = moved.to(_LOW)
        if self.planes is not None:
            # a sum near zero is what is looked for; rounded before the offset is added, it would be lost: so the
            # offset is inside the product, along constant coordinates.
            distances = (torch.cat([low, low.new_ones(len(low), 3)], 1) @ self.planes[units].T).to(x.dtype)
        if self.centres is not None:
            assert self.lengths is not None
            # lengths are taken in full precision: the rounding of |x|^2 would drown the differences.
            lengths = self.lengths[units].to(x.dtype) + moved.square().sum(1, keepdim=True)
            radii = lengths - 2 * (low @ self.centres[units].T).to(x.dtype)
        return energies(distances, radii, gate)

    def size_bytes(self) -> int:
        """Return the bytes of all that is held."""
        held = (self.origin, self.planes, self.centres, self.lengths)
        return sum(table.numel() * table.element_size() for table in held if table is not None)


def cast_units(
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    origin: Float[Tensor, " D"],
) -> LowUnits:
    """Cast what the gate reads. O(N D) once.

    Args:
        origin: near the inputs, in the precision that sums are taken in.
    """
    planes = low_centres = lengths = None
    if gate != "ball":
        assert normals is not None
        assert offsets is not None
        planes = normals.new_empty(normals.shape[0], normals.shape[1] + 3, dtype=_LOW)
        for block in _blocks(normals):
            planes[block] = _plane_rows(normals[block].to(origin.dtype), offsets[block].to(origin.dtype), origin)
    if gate != "slab":
        assert centres is not None
        low_centres = torch.empty_like(centres, dtype=_LOW)
        lengths = centres.new_empty(centres.shape[0], dtype=origin.dtype)
        for block in _blocks(centres):
            moved = centres[block].to(origin.dtype) - origin
            low_centres[block], lengths[block] = moved.to(_LOW), moved.square().sum(1)
    return LowUnits(origin, planes, low_centres, lengths)


def _blocks(table: Tensor) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, table.shape[0], _BLOCK))


def _plane_rows(normals: Tensor, offsets: Tensor, origin: Tensor) -> Tensor:
    """Return normals and offsets in low precision, an offset as three numbers that add up to it."""
    rest, parts = offsets + normals @ origin, []
    for _ in range(3):
        parts.append(rest.to(_LOW))
        rest = rest - parts[-1].to(rest.dtype)
    return torch.cat([normals.to(_LOW), torch.stack(parts, 1)], 1)

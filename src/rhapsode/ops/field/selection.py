"""The K units of least energy: a scan in blocks, exact or with a first pass in low precision.

Tables may be float16 or bfloat16; a block of them at a time is cast to the precision of the scan, so that nothing of
the size of a whole table is ever made.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.field.gates import all_distances, all_squared_radii, energies

# a block has at most this many inputs and units: 64 MB of energies in float32.
_INPUTS, _UNITS = 2048, 8192
# elements of one gathered block when candidates are ranked: 128 MB in float32.
_GATHERED = 1 << 25
# how many more candidates than K a first pass in low precision keeps.
MARGIN = 4


def select_exact(
    x: Float[Tensor, "B D"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    k: int,
) -> Int[Tensor, "B K"]:
    """Return the ids of the K nearest units, nearest first, computed in the precision of x. O(B N D).

    Args:
        normals: (and offsets) may be None where `gate` is ball.
        centres: may be None where `gate` is slab.
        k: at most N.
    """
    return _scan(x, normals, offsets, centres, gate, k, x.dtype)


def select_reranked(
    x: Float[Tensor, "B D"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    k: int,
) -> Int[Tensor, "B K"]:
    """The same by a scan in bfloat16, whose best 4K are ranked again in the precision of x.

    Half the memory traffic and, where the processor multiplies bfloat16, several times the speed. A unit that the
    first pass puts behind 4K others is missed: measured, not proved, to be rare (docs/field.md).
    """
    number = min(MARGIN * k, _count(normals, centres))
    candidates = _scan(x, normals, offsets, centres, gate, number, torch.bfloat16)
    return rerank(x, candidates, normals, offsets, centres, gate, k)


def rerank(
    x: Float[Tensor, "B D"],
    candidates: Int[Tensor, "B M"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    k: int,
) -> Int[Tensor, "B K"]:
    """Return the K nearest of each input's candidates in the precision of x, nearest first. O(B M D).

    A candidate of -1 is none; each input must have at least K others.
    """
    rows = max(1, _GATHERED // max(1, candidates.shape[1] * x.shape[1]))
    found = []
    for part, ids in zip(torch.split(x, rows), torch.split(candidates, rows), strict=True):
        energy = active_energies(part, normals, offsets, centres, ids.clamp_min(0), gate)
        energy = energy.masked_fill(ids < 0, torch.inf)
        found.append(ids.gather(1, energy.topk(k, largest=False).indices))
    return torch.cat(found)


def active_energies(
    x: Float[Tensor, "B D"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    ids: Int[Tensor, "B K"],
    gate: str,
) -> Float[Tensor, "B K"]:
    """Return the energies of the named units, tables of any precision read in the precision of x. O(B K D)."""
    distances = radii = None
    if gate != "ball":
        assert normals is not None
        assert offsets is not None
        distances = torch.einsum("bd,bkd->bk", x, normals[ids].to(x.dtype)) + offsets[ids].to(x.dtype)
    if gate != "slab":
        assert centres is not None
        radii = (x.unsqueeze(1) - centres[ids].to(x.dtype)).square().sum(-1)
    return energies(distances, radii, gate)


def _scan(
    x: Tensor,
    normals: Tensor | None,
    offsets: Tensor | None,
    centres: Tensor | None,
    gate: str,
    k: int,
    precision: torch.dtype,
) -> Tensor:
    found = []
    for part in torch.split(x, _INPUTS):
        best = part.new_empty(len(part), 0)
        ids = torch.empty(len(part), 0, dtype=torch.long, device=x.device)
        for start in range(0, _count(normals, centres), _UNITS):
            block = slice(start, start + _UNITS)
            energy = _block_energies(part, normals, offsets, centres, block, gate, precision)
            near = energy.topk(min(k, energy.shape[1]), largest=False)
            best = torch.cat([best, near.values], 1)
            ids = torch.cat([ids, near.indices + start], 1)
            if best.shape[1] > k:
                order = best.topk(k, largest=False)
                best, ids = order.values, ids.gather(1, order.indices)
        found.append(ids)
    return torch.cat(found)


def _block_energies(
    x: Tensor,
    normals: Tensor | None,
    offsets: Tensor | None,
    centres: Tensor | None,
    block: slice,
    gate: str,
    precision: torch.dtype,
) -> Tensor:
    low = x.to(precision)
    distances = radii = None
    if gate != "ball":
        assert normals is not None
        assert offsets is not None
        if precision == x.dtype:
            distances = all_distances(x, normals[block].to(precision), offsets[block].to(precision))
        else:
            distances = _low_distances(x, normals[block], offsets[block], precision)
    if gate != "slab":
        assert centres is not None
        if precision == x.dtype:
            radii = all_squared_radii(x, centres[block].to(precision))
        else:
            # lengths are taken in full precision: the rounding of |x|^2 would drown the differences.
            cast = centres[block].to(x.dtype)
            lengths = cast.square().sum(1) + x.square().sum(1, keepdim=True)
            radii = lengths - 2 * (low @ cast.to(precision).T).to(x.dtype)
    return energies(distances, radii, gate)


def _low_distances(x: Tensor, normals: Tensor, offsets: Tensor, precision: torch.dtype) -> Tensor:
    """Return n.x + delta with the offset inside the product.

    A sum near zero is what is looked for; rounded before the offset is added, it would be lost. The offset goes along
    constant coordinates, as three numbers of low precision that add up to it.
    """
    rest, parts = offsets.to(x.dtype), []
    for _ in range(3):
        parts.append(rest.to(precision))
        rest = rest - parts[-1].to(x.dtype)
    rows = torch.cat([normals.to(precision), torch.stack(parts, 1)], 1)
    inputs = torch.cat([x, x.new_ones(len(x), 3)], 1).to(precision)
    return (inputs @ rows.T).to(x.dtype)


def _count(normals: Tensor | None, centres: Tensor | None) -> int:
    table = normals if normals is not None else centres
    assert table is not None
    return table.shape[0]

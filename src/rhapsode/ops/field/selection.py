"""The K units of least energy: a scan in blocks, exact or with a first pass in low precision.

Tables may be float16 or bfloat16; a block of them at a time is cast to the precision of the scan, so that nothing of
the size of a whole table is ever made.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.field.gates import all_distances, all_squared_radii, energies

# a block has at most this many inputs and units: 64 MB of energies in float32.
_INPUTS, _UNITS = 2048, 8192
# elements of one gathered block when candidates are ranked: 4 MB in float32, which stay in the cache. Blocks of 128 MB
# took twice as long.
_GATHERED = 1 << 20
# how many times K a first pass in low precision keeps, and beside them, of planes, one in so many of all: bfloat16 errs
# by about 0.0012 of the distances' deviation, and of N planes so many more lie that near.
MARGIN, ONE_IN = 4, 256
_LOW = torch.bfloat16
# so few inputs are scanned exactly: to cast the tables costs more than their product.
_FEW = 8


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
    return _scan(x, normals, offsets, centres, gate, k, _block_energies)


def select_reranked(
    x: Float[Tensor, "B D"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    k: int,
) -> Int[Tensor, "B K"]:
    """The same by a scan in bfloat16, whose best 4K, of planes 4K + N / 256, are ranked again in the precision of x.

    Half the memory traffic and, where the processor multiplies bfloat16, several times the speed. The inputs' mean is
    taken out in full precision first, so that what is rounded is only how they differ. A unit that the first pass puts
    behind the others is missed: measured, not proved, to be rare (docs/field.md).
    """
    if len(x) <= _FEW:
        return select_exact(x, normals, offsets, centres, gate, k)
    total = _count(normals, centres)
    number = min(MARGIN * k + (total // ONE_IN if gate == "slab" else 0), total)
    candidates = _scan(x, normals, offsets, centres, gate, number, _low_block_energies)
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
    block_energies: Callable[..., Tensor],
) -> Tensor:
    found = []
    for part in torch.split(x, _INPUTS):
        best = part.new_empty(len(part), 0)
        ids = torch.empty(len(part), 0, dtype=torch.long, device=x.device)
        for start in range(0, _count(normals, centres), _UNITS):
            block = slice(start, start + _UNITS)
            energy = block_energies(part, normals, offsets, centres, block, gate)
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
) -> Tensor:
    distances = radii = None
    if gate != "ball":
        assert normals is not None
        assert offsets is not None
        distances = all_distances(x, normals[block].to(x.dtype), offsets[block].to(x.dtype))
    if gate != "slab":
        assert centres is not None
        radii = all_squared_radii(x, centres[block].to(x.dtype))
    return energies(distances, radii, gate)


def _low_block_energies(
    x: Tensor,
    normals: Tensor | None,
    offsets: Tensor | None,
    centres: Tensor | None,
    block: slice,
    gate: str,
) -> Tensor:
    """Return the same by products in bfloat16.

    Energies stay as they are if inputs and units are moved alike, and rounding is relative to what is rounded: so the
    inputs' mean goes to the origin first.
    """
    distances = radii = None
    mean = x.mean(0)
    low = (x - mean).to(_LOW)
    if gate != "ball":
        assert normals is not None
        assert offsets is not None
        cast = normals[block].to(x.dtype)
        distances = _low_distances(low, cast, offsets[block].to(x.dtype) + cast @ mean).to(x.dtype)
    if gate != "slab":
        assert centres is not None
        # lengths are taken in full precision: the rounding of |x|^2 would drown the differences.
        cast = centres[block].to(x.dtype) - mean
        lengths = cast.square().sum(1) + (x - mean).square().sum(1, keepdim=True)
        radii = lengths - 2 * (low @ cast.to(_LOW).T).to(x.dtype)
    return energies(distances, radii, gate)


def _low_distances(low: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """Return n.x + delta with the offset inside the product.

    A sum near zero is what is looked for; rounded before the offset is added, it would be lost. The offset goes along
    constant coordinates, as three numbers of low precision that add up to it.
    """
    rest, parts = offsets, []
    for _ in range(3):
        parts.append(rest.to(low.dtype))
        rest = rest - parts[-1].to(rest.dtype)
    rows = torch.cat([normals.to(low.dtype), torch.stack(parts, 1)], 1)
    return torch.cat([low, low.new_ones(len(low), 3)], 1) @ rows.T


def _count(normals: Tensor | None, centres: Tensor | None) -> int:
    table = normals if normals is not None else centres
    assert table is not None
    return table.shape[0]

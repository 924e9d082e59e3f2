"""The K units of least energy: a scan in blocks, exact or with a first pass in low precision.

Tables may be float16 or bfloat16; a block of them at a time is cast to the precision of the scan, so that nothing of
the size of a whole table is made here. A caller may keep one, `LowUnits`, from scan to scan.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.field.gates import all_distances, all_squared_radii, energies
from rhapsode.ops.field.half_rows import half_dots, half_squared_distances, reads_halves
from rhapsode.ops.field.low_units import LowUnits, cast_units

# a block has at most this many inputs and units: 64 MB of energies in float32.
_INPUTS, _UNITS = 2048, 8192
# elements of one gathered block when candidates are ranked: 4 MB in float32, which stay in the cache. Blocks of 128 MB
# took twice as long.
_GATHERED = 1 << 20
# how many times K a first pass in low precision keeps, and beside them, of planes, one in so many of all: bfloat16 errs
# by about 0.0012 of the distances' deviation, and of N planes so many more lie that near.
MARGIN, ONE_IN = 4, 256
# so few inputs are scanned exactly: to cast the tables costs more than their product.
FEW = 8
# at most one in so many of a block is listed: 64 MB of places.
_SPARSE = 4


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

    def block_energies(part: Tensor, block: slice) -> Tensor:
        distances = radii = None
        if gate != "ball":
            assert normals is not None
            assert offsets is not None
            distances = all_distances(part, normals[block].to(x.dtype), offsets[block].to(x.dtype))
        if gate != "slab":
            assert centres is not None
            radii = all_squared_radii(part, centres[block].to(x.dtype))
        return energies(distances, radii, gate)

    return _scan(x, _count(normals, centres), k, block_energies)


def select_reranked(
    x: Float[Tensor, "B D"],
    normals: Float[Tensor, "N D"] | None,
    offsets: Float[Tensor, " N"] | None,
    centres: Float[Tensor, "N D"] | None,
    gate: str,
    k: int,
    low: LowUnits | None = None,
) -> Int[Tensor, "B K"]:
    """The same by a scan in bfloat16, whose best 4K, of planes 4K + N / 256, are ranked again in the precision of x.

    Half the memory traffic and, where the processor multiplies bfloat16, several times the speed. A unit that the first
    pass puts behind the others is missed: measured, not proved, to be rare (docs/field.md).

    Args:
        low: the same units cast before, about an origin near the inputs; without it they are cast here, block by block.
    """
    if low is None and len(x) <= FEW:
        return select_exact(x, normals, offsets, centres, gate, k)
    total = _count(normals, centres)
    number = min(MARGIN * k + (total // ONE_IN if gate == "slab" else 0), total)

    def block_energies(part: Tensor, block: slice) -> Tensor:
        if low is not None:
            return low.energies(part, block, gate)
        n, o, c = (None if table is None else table[block] for table in (normals, offsets, centres))
        return cast_units(n, o, c, gate, part.mean(0)).energies(part, slice(None), gate)

    candidates = _scan(x, total, number, block_energies)
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
    read = [table for table, gates in ((normals, "slab product"), (centres, "ball product")) if gate in gates]
    # where rows are read in place nothing is gathered, and all inputs are shared out among the threads at once.
    in_place = all(table is not None and reads_halves(table, x) for table in read)
    rows = max(1, len(x) if in_place else _GATHERED // max(1, candidates.shape[1] * x.shape[1]))
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
        distances = offsets[ids].to(x.dtype) + (
            half_dots(normals, ids, x)
            if reads_halves(normals, x)
            else torch.einsum("bd,bkd->bk", x, normals[ids].to(x.dtype))
        )
    if gate != "slab":
        assert centres is not None
        radii = (
            half_squared_distances(centres, ids, x)
            if reads_halves(centres, x)
            else (x.unsqueeze(1) - centres[ids].to(x.dtype)).square().sum(-1)
        )
    return energies(distances, radii, gate)


def _scan(x: Tensor, total: int, k: int, block_energies: Callable[[Tensor, slice], Tensor]) -> Tensor:
    found = []
    for part in torch.split(x, _INPUTS):
        best = part.new_empty(len(part), 0)
        ids = torch.empty(len(part), 0, dtype=torch.long, device=x.device)
        for start in range(0, total, _UNITS):
            energy = block_energies(part, slice(start, start + _UNITS))
            under = energy < best[:, -1:] if best.shape[1] == k else None
            # where most are near, to list them takes more than to look for the best.
            if under is None or int(under.sum()) > under.numel() // _SPARSE:
                near, places = energy.topk(min(k, energy.shape[1]), largest=False)
            else:
                near, places = _listed(energy, under)
            best = torch.cat([best, near], 1)
            ids = torch.cat([ids, places + start], 1)
            if best.shape[1] >= k:
                order = best.topk(k, largest=False)
                best, ids = order.values, ids.gather(1, order.indices)
        found.append(ids)
    return torch.cat(found)


def _listed(energy: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the chosen energies and where they are, each row filled up with infinities to the longest of them.

    Those under the k-th best of what came before are few, so that to look for k in every block is spared.
    """
    rows, columns = chosen.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(energy))
    # rows come in order: the place of a column is its rank among all less that of its row's first.
    ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    longest = int(counts.max()) if len(counts) else 0
    values = energy.new_full((len(energy), longest), torch.inf)
    places = columns.new_zeros((len(energy), longest))
    values[rows, ranks] = energy[rows, columns]
    places[rows, ranks] = columns
    return values, places


def _count(normals: Tensor | None, centres: Tensor | None) -> int:
    table = normals if normals is not None else centres
    assert table is not None
    return table.shape[0]

"""Which way a field finds its active units, and the index that it keeps between changes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.index import UnitIndex
from rhapsode.ops.field.evaluate import Units
from rhapsode.ops.field.low_units import LowUnits, cast_units
from rhapsode.ops.field.selection import FEW, rerank, select_exact, select_reranked

# dimensions past which cells of points without structure must nearly all be visited (docs/field.md).
_MANY = 64


# inputs may lie this many times farther from the copy's origin, in mean squares, than those it was made for.
_FARTHER = 1.5


class _Kept(NamedTuple):
    """A copy, and the mean square distance from its origin of the inputs that it was made for."""

    low: LowUnits
    spread: float


class UnitSearch:
    """Find the K units of least energy by the way that the settings name.

    An index is built at the first search after `reset`, in O(N D cells) time; candidates are always ranked by the
    present tables, so an index of units that have moved since is a little worse, never wrong about order. A copy in
    bfloat16 is made at the second search of tables that have not changed, so that training does not make one a step.
    """

    def __init__(self, config: FieldConfig, in_dim: int) -> None:
        self.config, self.in_dim = config, in_dim
        self._index: UnitIndex | None = None
        self._stale = 0
        self._kept: _Kept | None = None
        self._seen: list[tuple[Tensor, int]] = []

    @property
    def way(self) -> str:
        """`exact`, `reranked` or `index`: what `auto` comes to at this number of units."""
        config = self.config
        if config.search != "auto":
            return config.search
        if config.num_units < config.index_from:
            return "exact"
        # near planes have no neighbourhoods that an index could visit, and nor have points of many dimensions.
        return "reranked" if config.gate == "slab" or self.in_dim > _MANY else "index"

    def reset(self, *, rebuild: bool = False) -> None:
        """Note that units have moved. The index is built anew after 100 notes, or at once with `rebuild`."""
        self._kept, self._seen = None, []
        self._stale += 1
        if rebuild or self._stale >= 100:
            self._index, self._stale = None, 0

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "B D"], units: Units) -> Int[Tensor, "B K"]:
        """Return the active ids, nearest first."""
        gate, k = self.config.gate, self.config.num_active
        normals = None if gate == "ball" else units.normals
        centres = None if gate == "slab" else units.centres
        tables = (normals, units.offsets, centres)
        if self.way == "exact":
            return select_exact(x, *tables, gate, k)
        if self.way == "reranked":
            return select_reranked(x, *tables, gate, k, self._copy(x, tables))
        if self._index is None:
            self._index = UnitIndex(normals, units.offsets, centres, gate)
        candidates = self._index.candidates(x, k, self.config.index_share)
        return rerank(x, candidates, *tables, gate, k)

    def _copy(self, x: Tensor, tables: Sequence[Tensor | None]) -> LowUnits | None:
        """Return the tables in bfloat16 if they are as they were at the last search and `x` is near the origin."""
        held = [table for table in tables if table is not None]
        if not self.config.search_copy or any(table.is_inference() for table in held):
            return None
        # a change in place raises a version, if not one of `.data`: `reset` tells of those. What was seen is held
        # through an alias, so that neither is its address given away nor does a table that is exchanged look the same.
        seen, kept = self._seen, self._kept
        same = len(held) == len(seen) and all(
            table.data_ptr() == old.data_ptr() and table._version == version
            for table, (old, version) in zip(held, seen, strict=True)
        )
        if not same:
            self._seen, self._kept = [(table.detach(), table._version) for table in held], None
            return None
        if kept is not None and float((x - kept.low.origin).square().sum(1).mean()) <= _FARTHER * kept.spread:
            return kept.low
        if len(x) <= FEW:
            return None
        normals, offsets, centres = tables
        mean = x.mean(0)
        low = cast_units(normals, offsets, centres, self.config.gate, mean)
        self._kept = _Kept(low, float((x - mean).square().sum(1).mean()))
        return low

    def size_bytes(self) -> int:
        """Return the bytes of the copy in bfloat16 that is kept now."""
        return 0 if self._kept is None else self._kept.low.size_bytes()

"""Which way a field finds its active units, and the index that it keeps between changes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.index import UnitIndex
from rhapsode.ops.field.evaluate import Units
from rhapsode.ops.field.selection import rerank, select_exact, select_reranked

# dimensions past which cells of points without structure must nearly all be visited (docs/field.md).
_MANY = 64


class UnitSearch:
    """Find the K units of least energy by the way that the settings name.

    An index is built at the first search after `reset`, in O(N D cells) time; candidates are always ranked by the
    present tables, so an index of units that have moved since is a little worse, never wrong about order.
    """

    def __init__(self, config: FieldConfig, in_dim: int) -> None:
        self.config, self.in_dim = config, in_dim
        self._index: UnitIndex | None = None
        self._stale = 0

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
        if self.way == "index":
            if self._index is None:
                self._index = UnitIndex(normals, units.offsets, centres, gate)
            candidates = self._index.candidates(x, k, self.config.index_share)
            return rerank(x, candidates, *tables, gate, k)
        find = select_exact if self.way == "exact" else select_reranked
        return find(x, *tables, gate, k)

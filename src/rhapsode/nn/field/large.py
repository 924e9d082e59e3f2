"""A field of very many units: float16 tables, of which an update touches only the active rows."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import StateError
from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.half_table import HalfTable
from rhapsode.nn.field.head import SMALLEST_LOG, FieldHead, FieldOutput, random_units
from rhapsode.ops.field.evaluate import FieldParts, Units, blend, evaluate
from rhapsode.ops.field.half_rows import half_dots, half_squared_distances, reads_halves

_BLOCK = 4096
# floats of touched rows that a query gathers at once: 256 MB.
_GATHERED = 1 << 26


class LargeField(FieldHead):
    """The field of `Field`, stored in 2 N (D + 3 + 3 R) bytes, and 2 N D more for centres under balls and products.

    A ranked search keeps 2 N D bytes beside them, twice that for products, unless `search_copy` is off.

    In training mode `forward` gathers the rows that the batch touches as float32 leaves; after `loss.backward()`,
    `update_units` steps them by Adagrad's rule with one second moment a row (as in Naumov et al. 2019, arXiv
    1906.00091) and writes them back through the masters. The decoder, bias and temperature are ordinary parameters, for
    an ordinary optimizer. In evaluation mode it answers from the stored float16 alone, so that a reload answers alike.
    """

    moments: Tensor

    def __init__(
        self, in_dim: int, out_dim: int, config: FieldConfig, seed: int = 0, masters: int = 0, *, draw: bool = True
    ) -> None:
        """Draw all units block by block: O(N (D + R)) time, one block of float32 beside the tables.

        Args:
            masters: rows that keep float32 masters, 4 (D + 3 + 3 R) bytes each; 0 writes with stochastic rounding.
            draw: False leaves the units zero, for one who loads them and need not wait.
        """
        super().__init__(in_dim, out_dim, config)
        generator = torch.Generator().manual_seed(seed)
        number = config.num_units
        self.planes = HalfTable(number, in_dim + 3, masters, seed)
        self.controls = HalfTable(number, 3 * self.rank, masters, seed + 1)
        self.balls = None if config.gate == "slab" else HalfTable(number, in_dim, masters, seed + 2)
        for start in range(0, number if draw else 0, _BLOCK):
            self._fill(start, min(_BLOCK, number - start), generator)
        self.register_buffer("moments", torch.zeros(3, number))
        self._add_output(generator)
        self._pending: tuple[Tensor, list[Tensor]] | None = None

    def explain(self, x: Float[Tensor, "B D"]) -> FieldOutput:
        """Return the outputs with the active units and their parts."""
        x = x.float()
        with torch.no_grad():
            ids = self.search(x, self._stored())
        if self.training and torch.is_grad_enabled():
            parts = self._evaluate(x, ids, keep=True)
        else:
            # a query needs no more rows at once than fit a block.
            rows = max(1, _GATHERED // (ids.shape[1] * (self.in_dim + 3 * self.rank)))
            in_place = reads_halves(self.planes.data, x) and not torch.is_grad_enabled()
            answer = self._answer if in_place else self._evaluate
            pieces = [
                answer(some, part) for some, part in zip(torch.split(x, rows), torch.split(ids, rows), strict=True)
            ]
            parts = FieldParts(*(torch.cat(column) for column in zip(*pieces, strict=True)))
        return self._output(ids, parts)

    @torch.no_grad()
    def update_units(self, learning_rate: float, decay: float = 0.99) -> Float[Tensor, " N"]:
        """Step the units that the last training batch touched; return the gradient norm of every unit's controls.

        row <- row - rate g / sqrt(m), m the decayed mean of g^2 over the row; then normals to unit length.

        Raises:
            StateError: if no training batch with a backward pass came before.
        """
        if self._pending is None or self._pending[1][0].grad is None:
            raise StateError("field.update_units must follow forward in training mode and backward; one is missing.")
        ids, leaves = self._pending
        self._pending = None
        norms = torch.zeros(self.num_units)
        for slot, (table, leaf) in enumerate(zip(self._tables(), leaves, strict=True)):
            gradient = leaf.grad
            if gradient is None:
                continue
            square = gradient.square().mean(1)
            before = self.moments[slot, ids]
            moment = torch.where(before > 0, decay * before + (1 - decay) * square, square)
            self.moments[slot, ids] = moment
            rows = leaf.detach() - learning_rate * gradient / (moment.sqrt() + 1e-12).unsqueeze(1)
            if slot == 0:
                self._project(rows)
            table.write(ids, rows)
            if slot == 1:
                norms[ids] = gradient.norm(dim=1)
        self.search.reset()
        return norms

    @torch.no_grad()
    def unit_rows(self, ids: Int[Tensor, " M"]) -> Units:
        """Return copies of the named units, in float32."""
        return self._units([table.read(ids) for table in self._tables()])

    @torch.no_grad()
    def write_units(self, ids: Int[Tensor, " M"], units: Units) -> None:
        """Replace the named units, and forget their second moments."""
        self.planes.write(ids, _plane_rows(units))
        self.controls.write(ids, units.controls.flatten(1))
        if self.balls is not None and units.centres is not None:
            self.balls.write(ids, units.centres)
        self.moments[:, ids] = 0
        self.search.reset()

    def unit_parameters(self) -> Mapping[str, nn.Parameter]:
        """Return nothing: the units' second moments are this field's own."""
        return {}

    def flush(self) -> None:
        """Round all masters into the tables, as before saving."""
        for table in self._tables():
            table.flush()

    def size_bytes(self) -> int:
        """Return the bytes of tables, masters, moments, parameters, and the copy that the search keeps now."""
        held = [*self.buffers(), *self.parameters(), *(table._cache for table in self._tables())]
        return sum(value.numel() * value.element_size() for value in held) + self.search.size_bytes()

    def _tables(self) -> list[HalfTable]:
        return [self.planes, self.controls, *([] if self.balls is None else [self.balls])]

    def _fill(self, start: int, count: int, generator: torch.Generator) -> None:
        units = random_units(self.config, self.in_dim, self.rank, count, generator)
        self.planes.fill(start, _plane_rows(units))
        self.controls.fill(start, units.controls.flatten(1))
        if self.balls is not None and units.centres is not None:
            self.balls.fill(start, units.centres)

    def _stored(self) -> Units:
        """Return views of the tables for a search, which reads neither bands nor controls."""
        if float(self.planes.scale) != 1 or (self.balls is not None and float(self.balls.scale) != 1):
            raise StateError(
                "field planes must stay within float16; an offset or centre grew past it. Scale the inputs."
            )
        data = self.planes.data
        centres = None if self.balls is None else self.balls.data
        return Units(data[:, : self.in_dim], data[:, self.in_dim], data[:, -2:], self.controls.data, centres)

    def _answer(self, x: Tensor, ids: Tensor) -> FieldParts:
        """Do as `_evaluate` does, of what is stored and without gradients, and read the long rows in place."""
        units, shape = self._stored(), self.shape
        distances = half_dots(units.normals, ids, x) + units.offsets[ids].float()
        radii = None
        if units.centres is not None and shape.gate != "slab":
            radii = half_squared_distances(units.centres, ids, x)
        touched, local = ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        controls = self.controls.stored(touched).reshape(-1, 3, self.rank)
        bands = units.bands[touched].float().exp()
        return blend(distances, radii, bands, controls, local, self.log_temperature.exp(), shape)

    def _evaluate(self, x: Tensor, ids: Tensor, keep: bool = False) -> FieldParts:
        touched, local = ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        leaves = [table.read(touched) if keep else table.stored(touched) for table in self._tables()]
        if keep:
            leaves = [leaf.requires_grad_() for leaf in leaves]
            self._pending = touched, leaves
        return evaluate(x, self._units(leaves), local, self.log_temperature.exp(), self.shape)

    def _units(self, rows: list[Tensor]) -> Units:
        planes, controls = rows[0], rows[1].reshape(-1, 3, self.rank)
        centres = rows[2] if len(rows) > 2 else None
        return Units(planes[:, : self.in_dim], planes[:, self.in_dim], planes[:, -2:].exp(), controls, centres)

    def _project(self, rows: Tensor) -> None:
        rows[:, : self.in_dim] /= rows[:, : self.in_dim].norm(dim=1, keepdim=True).clamp_min(1e-12)
        rows[:, -2:].clamp_(min=SMALLEST_LOG)


def _plane_rows(units: Units) -> Float[Tensor, "M D_plus_3"]:
    """Normals, offsets and the logarithms of both bands, side by side."""
    return torch.cat([units.normals, units.offsets.unsqueeze(1), units.bands.log()], 1)

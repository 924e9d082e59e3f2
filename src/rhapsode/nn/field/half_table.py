"""A table stored in float16, updated in float32: masters for the rows touched last, in a bounded cache."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import StateError
from rhapsode.ops.rounding import round_stochastically

# under float16's largest number, 65,504, so that rounding up cannot pass it.
_LARGEST = 60_000.0
_BLOCK = 8192


class HalfTable(nn.Module):
    """N rows of F float16 numbers times one power of two, and float32 masters for at most `masters` of the rows.

    A row that is written gets a master, and keeps it until rows touched later push it out; then it is rounded
    stochastically. Without masters, every write is rounded stochastically at once. 2 N F + 4 masters F bytes.
    """

    data: Tensor
    scale: Tensor

    def __init__(self, num_rows: int, width: int, masters: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("data", torch.zeros(num_rows, width, dtype=torch.float16))
        self.register_buffer("scale", torch.ones(()))
        self.masters = min(masters, num_rows)
        # how often values outgrew float16 and the whole table was scaled.
        self.rescalings = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._cache = torch.zeros(self.masters, width)
        self._slot_of = torch.full((num_rows if self.masters else 0,), -1, dtype=torch.int32)
        self._row_of = torch.full((self.masters,), -1, dtype=torch.long)
        self._touched = torch.zeros(self.masters, dtype=torch.long)
        self._clock = 0

    def __len__(self) -> int:
        """Rows with a master now."""
        return int((self._row_of >= 0).sum())

    def stored(self, rows: Int[Tensor, " M"]) -> Float[Tensor, "M F"]:
        """Return rows as they are stored, in float32: what a reload would give."""
        return self.data[rows].float() * self.scale

    def read(self, rows: Int[Tensor, " M"]) -> Float[Tensor, "M F"]:
        """Return rows in float32, from their masters where they have one."""
        values = self.stored(rows)
        if self.masters:
            slots = self._slot_of[rows].long()
            here = slots >= 0
            values[here] = self._cache[slots[here]]
        return values

    @torch.no_grad()
    def write(self, rows: Int[Tensor, " M"], values: Float[Tensor, "M F"]) -> None:
        """Replace different rows.

        Raises:
            StateError: if a value is NaN or infinite; nothing is written.
        """
        values = values.detach().float()
        if not bool(torch.isfinite(values).all()):
            raise StateError("field values must be finite; an update gave NaN or infinity. Lower the learning rate.")
        self._make_room(float(values.abs().max()) if values.numel() else 0.0)
        kept = min(len(rows), self.masters)
        if kept:
            slots = self._slots_for(rows[:kept])
            self._cache[slots] = values[:kept]
            # the stored copy follows to the nearest, for searches and queries; the master is the truth.
            self.data[rows[:kept]] = (values[:kept] / self.scale).half()
        if kept < len(rows):
            self.data[rows[kept:]] = round_stochastically(values[kept:] / self.scale, self._generator)

    @torch.no_grad()
    def fill(self, start: int, values: Float[Tensor, "M F"]) -> None:
        """Set rows from `start` on, rounded to the nearest, without masters: for initialisation."""
        self._make_room(float(values.abs().max()) if values.numel() else 0.0)
        self.data[start : start + len(values)] = (values / self.scale).half()

    @torch.no_grad()
    def flush(self) -> None:
        """Round every master into the table and forget the masters."""
        slots = (self._row_of >= 0).nonzero().squeeze(1)
        self._round_out(slots)

    def _slots_for(self, rows: Tensor) -> Tensor:
        self._clock += 1
        slots = self._slot_of[rows].long()
        known = slots >= 0
        self._touched[slots[known]] = self._clock
        missing = rows[~known]
        if len(missing):
            # free slots have never been touched, so they come first.
            oldest = self._touched.topk(len(missing), largest=False).indices
            self._round_out(oldest[self._row_of[oldest] >= 0])
            self._row_of[oldest] = missing
            self._slot_of[missing] = oldest.int()
            self._touched[oldest] = self._clock
            slots = self._slot_of[rows].long()
        return slots

    def _round_out(self, slots: Tensor) -> None:
        rows = self._row_of[slots]
        self.data[rows] = round_stochastically(self._cache[slots] / self.scale, self._generator)
        self._slot_of[rows] = -1
        self._row_of[slots] = -1
        self._touched[slots] = 0

    def _make_room(self, largest: float) -> None:
        if largest <= _LARGEST * float(self.scale):
            return
        factor = 2.0
        while largest > _LARGEST * float(self.scale) * factor:
            factor *= 2
        for start in range(0, len(self.data), _BLOCK):
            self.data[start : start + _BLOCK] /= factor
        self.scale *= factor
        self.rescalings += 1
        warnings.warn(
            f"a field value of {largest:.3g} is beyond float16; its table is now stored at 1/{float(self.scale):g}.",
            stacklevel=3,
        )

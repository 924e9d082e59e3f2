"""Projected contexts on disk: each stretch of a training text is projected when it is first met, and read from then on.

Nothing in a projection is learnt but its whitening, which is applied after reading. In float16, a row of 64 positions
after the other; the file belongs to one training and goes with it.

Shape letters: N positions of a block, Z projected numbers.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import StateError
from rhapsode.models.field.contexts import SparseContexts, last_windows
from rhapsode.models.field.model import FieldModel
from rhapsode.training.distill.blocks import ROW, Block, BlockReader

_NAME = "projected.f16"
_BYTES = 2
_ROWS_AT_ONCE = 8


class ContextCache:
    """What the first stage reads of a block: out of a file where it was computed before.

    A table reads sketches, which cost less to make than to read: nothing is stored for it.
    """

    def __init__(self, model: FieldModel, num_positions: int, folder: Path, limit_bytes: int) -> None:
        """Open an empty file; it grows to 2 Z bytes a position.

        Args:
            limit_bytes: rows past it are projected each time.

        Raises:
            StateError: if the file cannot be made.
        """
        self._model = model
        self._row_bytes = _BYTES * ROW * model.projection.out_dim
        wanted = 0 if model.reads_sketches else num_positions // ROW
        self._done = np.zeros(min(wanted, limit_bytes // self._row_bytes), dtype=bool)
        self.share = 1.0 if wanted == 0 else len(self._done) / wanted
        self._path = folder / _NAME
        try:
            self._file = open(self._path, "w+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise StateError(f"{self._path} must be writable; got: {error.strerror}. Free space.") from None

    @property
    def size_bytes(self) -> int:
        """What the file may grow to."""
        return len(self._done) * self._row_bytes

    def __enter__(self) -> "ContextCache":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    @torch.no_grad()
    def __call__(self, block: Block) -> Float[Tensor, "N Z"] | SparseContexts:
        """Return the contexts of a block, as `FieldModel.project_block` does but for the rounding to float16.

        Raises:
            StateError: if the disk is full.
        """
        model = self._model
        if model.reads_sketches:
            return model.project_block(block.past, block.ids, None)
        rows = self._rows(block)
        if rows is None:
            return model.project_block(block.past, block.ids, block.raw)
        if not self._done[rows].all():
            windows = last_windows(block.past, block.ids, model.config.window)
            self._write(rows, model.projection.statistics(windows, block.raw))
        found = self._read(rows)
        whitening = model.projection.inner.whitening
        return found if whitening is None else whitening.apply(found)

    def fill(self, reader: BlockReader) -> None:
        """Project all that has a place now, so that no update waits for it: for comparisons at equal seconds."""
        starts = [int(row) * ROW for row in np.flatnonzero(~self._done)]
        for first in range(0, len(starts), _ROWS_AT_ONCE):
            self(reader.block(starts[first : first + _ROWS_AT_ONCE], ROW))

    def _rows(self, block: Block) -> list[int] | None:
        """Return the rows of the file that hold a block, if it is made of whole rows and all have a place."""
        if block.ids.shape[1] != ROW or any(start % ROW for start in block.starts):
            return None
        rows = [start // ROW for start in block.starts]
        return rows if max(rows) < len(self._done) else None

    def _write(self, rows: list[int], contexts: Float[Tensor, "N Z"]) -> None:
        stored = contexts.half().numpy()
        for number, row in enumerate(rows):
            try:
                self._file.seek(row * self._row_bytes)
                part = stored[number * ROW : (number + 1) * ROW].tobytes()
                if self._file.write(part) != len(part):
                    raise StateError(f"{self._path} must fit the disk; it is full. Free space, or lower --dim.")
            except OSError as error:
                raise StateError(f"{self._path} must be writable; got: {error.strerror}. Free space.") from None
            self._done[row] = True

    def _read(self, rows: list[int]) -> Float[Tensor, "N Z"]:
        parts = []
        for row in rows:
            self._file.seek(row * self._row_bytes)
            parts.append(self._file.read(self._row_bytes))
        stored = np.frombuffer(b"".join(parts), dtype=np.float16)
        return torch.from_numpy(stored.astype(np.float32)).view(len(rows) * ROW, -1)

"""Vectors that somebody else's code made, checked and brought to unit length."""

from typing import Any

import numpy as np
from jaxtyping import Float32

from rhapsode.errors import UserError


def unit_rows(values: Any, num_rows: int, width: int | None, name: str) -> Float32[np.ndarray, "N M"]:
    """Return `values` as float32 rows of length 1; rows of zeros stay zeros.

    Args:
        num_rows: N, how many there must be.
        width: M, or `None` if any width will do.
        name: of the encoder, for messages.

    Raises:
        UserError: if the shape is wrong or a value is not finite.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != num_rows or rows.shape[1] != (width or max(1, rows.shape[1])):
        wanted = f"({num_rows}, {width or 'M'})"
        raise UserError(
            f"the encoder '{name}' must return an array of shape {wanted}; got {rows.shape}. Return one row a text."
        )
    if not np.isfinite(rows).all():
        raise UserError(f"the encoder '{name}' must return finite numbers; got NaN or infinity. Check its input.")
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: Float32[np.ndarray, "N M"] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).astype(
        np.float32
    )
    return unit

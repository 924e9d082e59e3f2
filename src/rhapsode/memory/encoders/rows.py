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
        UserError: if the values are no numbers, the shape is wrong, or a value is not finite.
    """
    try:
        rows = np.asarray(values)
    except (ValueError, TypeError):
        raise UserError(f"the encoder '{name}' must return rows of one length. Return one row a text.") from None
    if rows.dtype.kind not in "fiu":
        raise UserError(f"the encoder '{name}' must return numbers; got {rows.dtype}. Return one row a text.")
    rows = rows.astype(np.float64)
    if rows.ndim != 2 or len(rows) != num_rows or rows.shape[1] != (width or max(1, rows.shape[1])):
        wanted = f"({num_rows}, {width or 'M'})"
        raise UserError(
            f"the encoder '{name}' must return an array of shape {wanted}; got {rows.shape}. Return one row a text."
        )
    if not np.isfinite(rows).all():
        raise UserError(f"the encoder '{name}' must return finite numbers; got NaN or infinity. Check its input.")
    # squares of what is far from 1 overflow, or vanish: the largest number of each row is made 1 first.
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    rows = np.divide(rows, peaks, out=np.zeros_like(rows), where=peaks > 0)
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: Float32[np.ndarray, "N M"] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0).astype(
        np.float32
    )
    return unit

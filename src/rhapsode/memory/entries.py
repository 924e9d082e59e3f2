"""The rows of a key-value memory: keys in one block, a column for everything that is counted. Torch-free."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from rhapsode.errors import UserError

_FIRST_ROWS = 16


@dataclass(frozen=True)
class Payload:
    """What an entry holds beside its key and its counts."""

    value: Any
    name: str | None
    text: str | None
    source: str | None


class EntryTable:
    """N rows, of which the first N of every array are in use; a removed row is filled by the last one.

    `columns` are `id`, `scale` (1 / |key|), `confidence`, `uses`, `successes`, `version`, `superseded`.
    """

    def __init__(self, key_size: int) -> None:
        self.keys = np.empty((_FIRST_ROWS, key_size), dtype=np.float32)
        types: dict[str, type] = {"id": np.int64, "scale": np.float32, "confidence": np.float64, "uses": np.int64}
        types |= {"successes": np.int64, "version": np.int64, "superseded": np.bool_}
        self.columns: dict[str, np.ndarray] = {name: np.empty(_FIRST_ROWS, dtype=kind) for name, kind in types.items()}
        self.payloads: list[Payload] = []
        # id -> row, oldest first: an ordered dictionary gives up its first entry in O(1), a plain one does not.
        self.rows: OrderedDict[int, int] = OrderedDict()
        self.next_id = 0

    def __len__(self) -> int:
        return len(self.payloads)

    def column(self, name: str) -> np.ndarray:
        """Return the part of a column that is in use; not a copy."""
        return self.columns[name][: len(self)]

    def row(self, identity: int) -> int:
        """Return where an entry is.

        Raises:
            UserError: if there is no such entry.
        """
        if identity not in self.rows:
            raise UserError(f"id must be that of an entry; got {identity}, which is not in this memory.")
        return self.rows[identity]

    def append(self, key: Float[np.ndarray, " K"], payload: Payload, confidence: float, version: int) -> int:
        """Add an entry and return its id. O(K) amortised."""
        row = len(self)
        if row == len(self.keys):
            # doubling makes the copies O(1) a write.
            self.keys = np.concatenate([self.keys, np.empty_like(self.keys)])
            self.columns = {name: np.concatenate([old, np.empty_like(old)]) for name, old in self.columns.items()}
        identity = self.next_id
        self.next_id += 1
        fresh = {"id": identity, "confidence": confidence, "uses": 0, "successes": 0, "version": version}
        for name, value in {**fresh, "superseded": False}.items():
            self.columns[name][row] = value
        self.payloads.append(payload)
        self.rows[identity] = row
        self.set_key(row, key)
        return identity

    def set_key(self, row: int, key: Float[np.ndarray, " K"]) -> None:
        """Replace the key of a row."""
        self.keys[row] = key
        self.columns["scale"][row] = inverse_norms(key[None])[0]

    def remove(self, identity: int) -> Payload:
        """Remove an entry that is here and return what it held. O(K)."""
        row = self.rows.pop(identity)
        removed, last = self.payloads[row], len(self) - 1
        if row != last:
            # the last entry fills the gap, so that keys stay one block.
            self.keys[row] = self.keys[last]
            for values in self.columns.values():
                values[row] = values[last]
            self.payloads[row] = self.payloads[last]
            self.rows[int(self.columns["id"][row])] = row
        self.payloads.pop()
        return removed

    def copy(self) -> "EntryTable":
        """Return a table with the same entries; payloads are shared. O(N K)."""
        other = copy.copy(self)
        other.keys = self.keys.copy()
        other.columns = {name: values.copy() for name, values in self.columns.items()}
        other.payloads = list(self.payloads)
        other.rows = self.rows.copy()
        return other


def inverse_norms(keys: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " N"]:
    """1 / |key|, and 0 for a key of zeros, whose cosine with anything is then 0."""
    norms = np.sqrt(np.einsum("nk,nk->n", keys, keys, dtype=np.float64))
    scales: np.ndarray = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return scales.astype(np.float32)

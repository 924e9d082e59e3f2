"""The contracts of durable memory: what an item is, what a store answers, what an encoder gives. Torch-free.

Shape letters: N texts, M width of a vector.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32


@dataclass(frozen=True)
class Item:
    """What a person teaches: a text, and what is known about it."""

    text: str
    key: str | None = None
    """What the text is about. A new text under the same key supersedes the older one; without a key nothing does."""
    source: str | None = None
    """A label of where the text came from, by which it can be forgotten."""
    space: str = "default"
    """Texts of one space are never found from another, and do not change its scores."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values by name; a search can be limited to rows with equal values."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that say where exactly the text stood, such as a file and byte offsets; not searchable."""
    created_at: float | None = None
    """Seconds since 1970 (UTC); without it, the time of writing."""


@dataclass(frozen=True)
class Row:
    """An item as a store holds it."""

    id: int
    """Never given to another row, even after this one is forgotten."""
    text: str
    key: str | None
    source: str | None
    space: str
    metadata: Mapping[str, Any]
    provenance: Mapping[str, Any]
    created_at: float
    version: int
    """1 for the first text under a key, and one more for each newer one."""
    superseded_by: int | None
    """The id of the next version; None for the current one. Superseded rows are listed but are never an answer."""
    encoder: str | None
    """Fingerprint of the encoder that made the row's vector; None if it has no vector."""


@dataclass(frozen=True)
class Hit:
    """A row that answers a query."""

    row: Row
    score: float
    """What hits are ordered by: cosine, BM25, or reciprocal-rank fusion, by the mode of the search."""
    parts: Mapping[str, float]
    """`bm25` where text was searched, `vector` (the cosine) where vectors were; 0 where the row does not match."""


@dataclass(frozen=True)
class Written:
    """What a write did, one entry an item; the items are on disk."""

    ids: list[int]
    created: list[bool]
    """False where the same text was there already, under the same key and in the same space."""
    superseded: list[int | None]
    """The row that was current under the item's key until now, if it was another."""


@dataclass(frozen=True)
class Erasure:
    """What a forget did. The rows are deleted in any case."""

    ids: list[int]
    erased: bool
    """Whether no file of the store holds their bytes any more."""
    pending: bool
    """Whether bytes are left because another process is reading; they are erased at the next open or forget."""
    restored: list[int]
    """Older versions that are current again, because all newer ones were forgotten."""


@dataclass(frozen=True)
class Change:
    """One entry of a store's log: from `seq` on, row `id` can (`add`) or can no longer (`drop`) be found."""

    seq: int
    op: str
    id: int
    space: str | None
    """None where the space has been removed since."""


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors whose cosine says how alike they are."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would; a store refuses vectors of another fingerprint."""

    @property
    def width(self) -> int:
        """M, the length of a vector."""

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        """Return one vector of unit length a text, or a row of zeros where nothing in the text is known."""

    def save(self, folder: Path) -> None:
        """Write the encoder to `folder`, so that it can be loaded without what it was made from."""


@runtime_checkable
class Store(Protocol):
    """Durable rows with text and vector search."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Any of `multi_process`, `secure_delete`, `transactions`, `read_only`: what the conformance suite tests."""

    @property
    def seq(self) -> int:
        """Number of the last change; grows with every write and forget, in whatever process."""

    def write(self, items: Sequence[Item], vectors: Float[np.ndarray, "N M"] | None = None) -> Written:
        """Add or update items; durable when it returns, all or nothing."""

    def search(
        self,
        query: str,
        k: int = 5,
        space: str = "default",
        where: Mapping[str, Any] | None = None,
        vector: Float[np.ndarray, " M"] | None = None,
        mode: str = "hybrid",
    ) -> list[Hit]:
        """Return the k best current rows of one space, best first, fewer where fewer match.

        Rows that `where` leaves out change no score.
        """

    def get(self, ids: Sequence[int]) -> list[Row]:
        """Return rows by id, in the order asked for."""

    def rows(
        self,
        space: str | None = None,
        where: Mapping[str, Any] | None = None,
        source: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Yield rows in the order of their ids, superseded ones too."""

    def match(self, text: str, space: str | None = None) -> list[Row]:
        """Return the rows whose text, key or source contains `text`, letter case ignored."""

    def changes(self, after: int = 0) -> Iterable[Change]:
        """Return what happened after a `seq`."""

    def forget(self, ids: Sequence[int]) -> Erasure:
        """Delete rows and erase their bytes."""

    def close(self) -> None:
        """Release the files."""

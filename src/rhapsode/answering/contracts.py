"""What answering asks of a store; the embedded store of `rhapsode.memory.store` has all of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from rhapsode.memory.contracts import Hit, Row


@runtime_checkable
class Memories(Protocol):
    """Rows that can be searched, counted and sampled, in spaces that do not see each other.

    With `where`, metadata by name, only rows with all of it are there: no other changes what is returned.
    """

    @property
    def seq(self) -> int:
        """Number of the last change; two equal numbers mean equal rows."""
        ...

    def search(self, query: str, k: int, space: str, where: Mapping[str, Any] | None = None) -> Sequence[Hit]:
        """Return up to `k` rows, best first."""
        ...

    def count(self, space: str, where: Mapping[str, Any] | None = None) -> int:
        """Return the number of live rows."""
        ...

    def document_frequency(
        self, words: Sequence[str], space: str, where: Mapping[str, Any] | None = None
    ) -> Mapping[str, int]:
        """Return, for each word as `split_words` gives it, how many live rows hold it in key or text."""
        ...

    def sample(self, count: int, space: str) -> Sequence[Row]:
        """Return up to `count` live rows, spread over all of them: a pure function of the rows there are."""
        ...

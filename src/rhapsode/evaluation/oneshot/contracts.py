"""What every method of the one-shot comparison is given and returns. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Story:
    """A short text about one word. `definition` and `usage` are the parts of it that are the same in every story."""

    text: str
    word: str
    definition: str
    usage: str


@dataclass(frozen=True)
class Answers:
    """What a method says to n queries.

    Attributes:
        words: the answers.
        confidence: (n,) float, higher is surer; its scale is the method's own.
        memory_words: the word of the nearest memory of each, or None for a method without memory.
        similarity: (n,) float, of that memory, or None.
        gates: (n,) float, the share taken from memory, or None where nothing is mixed.
    """

    words: list[str]
    confidence: Float[np.ndarray, " n"]
    memory_words: list[str] | None = None
    similarity: Float[np.ndarray, " n"] | None = None
    gates: Float[np.ndarray, " n"] | None = None


@dataclass
class Counters:
    """What a method did: entries written and deleted, and more under their own names."""

    written: int = 0
    deleted: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """Learns words from stories, then names the word of a text."""

    counters: Counters

    def teach(self, stories: Sequence[Story]) -> None:
        """Learn from stories; called again, it learns more words and should keep the old."""
        ...

    def maintain(self) -> None:
        """Do what the method does to its memories from time to time: consolidate, forget, or nothing."""
        ...

    def answer(self, texts: Sequence[str]) -> Answers:
        """Name the word of every text; learns nothing."""
        ...

"""How much each word of a question counts: rare words more, by what the memory holds and by a little English."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log

from rhapsode.answering.vocabulary import COMMON_STEMS, stem

PRIOR_ROWS = 100
"""Rows of ordinary English that every memory is taken to hold besides its own: three facts alone say little."""
PRIOR_SHARE = 0.05
"""Share of those rows that a common word stands in."""


@dataclass(frozen=True)
class Term:
    """A word of a question, and what is known about it.

    Attributes:
        weight: how much it counts, in [0, 1].
        held: whether any memory holds it.
        common: whether it may stand in any question.
    """

    word: str
    weight: float
    held: bool
    common: bool


class TermWeights:
    """Inverse document frequency, scaled to [0, 1].

        weight(t) = ln((R + 1) / (r(t) + 1/2)) / ln((R + 1) / (1/2)),   R = N + 100,  r(t) = df(t) + 5 [t is common]

    A word that no memory holds counts 1, unless it is one of the common words that may stand in any question.
    Sparck Jones 1972; the prior is ours.
    """

    def __init__(self, num_rows: int, frequency: Callable[[str], int]) -> None:
        """Store where counts come from.

        Args:
            num_rows: N.
            frequency: number of rows that hold a word.
        """
        self._num_rows = num_rows
        self._frequency = frequency

    def of(self, words: Iterable[str], held_out: frozenset[str] | None = None) -> tuple[Term, ...]:
        """Return the terms of a question.

        Args:
            held_out: words of a row that is to count as if it were not there.
        """
        return tuple(self._term(word, held_out) for word in words)

    def _term(self, word: str, held_out: frozenset[str] | None) -> Term:
        rows = self._num_rows + PRIOR_ROWS - (held_out is not None)
        holding = max(0, self._frequency(word) - (held_out is not None and word in held_out))
        common = stem(word) in COMMON_STEMS
        counted = holding + PRIOR_ROWS * PRIOR_SHARE * common
        weight = log((rows + 1) / (counted + 0.5)) / log((rows + 1) / 0.5)
        return Term(word, max(0.0, weight), holding > 0, common)

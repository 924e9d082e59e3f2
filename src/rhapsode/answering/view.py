"""What answering needs of a store, in one place: everything else here sees memories only through this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rhapsode.answering.contracts import Memories
from rhapsode.answering.evidence import Evidence, Passage, gather, with_margins
from rhapsode.answering.question import Question
from rhapsode.answering.weights import Term, TermWeights
from rhapsode.memory.contracts import Row


@dataclass(frozen=True)
class Candidate:
    """A memory that the search proposes, with what speaks for it."""

    row: Row
    passage: Passage
    evidence: Evidence


class MemoryView:
    """One space of a store, or its rows with some metadata, as it was at one sequence number of its changes."""

    def __init__(self, store: Memories, space: str, where: Mapping[str, Any] | None = None) -> None:
        """Remember where to look; only the rows are counted yet."""
        self._store = store
        self.space = space
        self._where = where
        self.num_rows = store.count(space, where)
        self._frequencies: dict[str, int] = {}
        self._weights = TermWeights(self.num_rows, self._frequencies.__getitem__)

    def candidates(self, question: Question, limit: int, without: Row | None = None) -> list[Candidate]:
        """Return the memories that the search finds for the terms of a question, best of the search first.

        Args:
            limit: at most this many.
            without: a row to leave out, with all that has its key or its text, as if it had never been taught.
        """
        wanted = limit if without is None else limit + 4
        hits = self._store.search(" ".join(question.terms), wanted, self.space, self._where)
        rows = [hit.row for hit in hits if without is None or not _same(hit.row, without)][:limit]
        held_out = Passage.of(without.key, without.text).words.words if without else None
        terms = self.terms(question.terms, held_out)
        passages = [Passage.of(row.key, row.text) for row in rows]
        evidence = [gather(question, passage, terms, i == 0) for i, passage in enumerate(passages)]
        return [Candidate(*found) for found in zip(rows, passages, with_margins(evidence, passages), strict=True)]

    def terms(self, words: Sequence[str], held_out: frozenset[str] | None = None) -> tuple[Term, ...]:
        """Return what is known about words of a question; see `TermWeights.of`."""
        if missing := [word for word in words if word not in self._frequencies]:
            self._frequencies.update(self._store.document_frequency(missing, self.space, self._where))
        return self._weights.of(words, held_out)

    def sample(self, count: int) -> Sequence[Row]:
        """Return up to `count` rows of the whole space, spread evenly: a pure function of the rows there are."""
        return self._store.sample(count, self.space)


def _same(row: Row, other: Row) -> bool:
    return row.id == other.id or row.text == other.text or (row.key is not None and row.key == other.key)

"""Memories in the order of how well they answer a question."""

from dataclasses import dataclass

from rhapsode.answering.confidence import load_confidence
from rhapsode.answering.question import Question
from rhapsode.answering.view import Candidate, MemoryView
from rhapsode.memory.contracts import Row


@dataclass(frozen=True)
class Ranked:
    """A candidate and the confidence that it answers the question, in [0, 1]."""

    candidate: Candidate
    confidence: float


def rank(view: MemoryView, question: Question, limit: int, without: Row | None = None) -> list[Ranked]:
    """Return the candidates of a question, most confident first; equal ones in the order of the search.

    Args:
        without: a row to leave out, see `MemoryView.candidates`.
    """
    model = load_confidence()
    found = view.candidates(question, limit, without)
    if question.is_vague:
        found = [one for one in found if one.evidence.key_equal]
    return sorted((Ranked(one, model.score(one.evidence)) for one in found), key=lambda ranked: -ranked.confidence)

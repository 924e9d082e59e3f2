"""`ask`: search, compare, decide, extract. Nothing here needs torch or a model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from rhapsode.answering.calibration import Calibration, calibrate
from rhapsode.answering.config import AskConfig
from rhapsode.answering.contracts import Memories
from rhapsode.answering.extract import extract_answer
from rhapsode.answering.question import Question, parse_question
from rhapsode.answering.ranking import Ranked, rank
from rhapsode.answering.view import MemoryView
from rhapsode.errors import UserError
from rhapsode.memory.store.checks import check_unicode


@dataclass(frozen=True)
class Source:
    """A memory that was considered.

    Attributes:
        score: confidence that it answers the question, in [0, 1].
        used: whether the answer was taken from it.
    """

    id: int
    text: str
    key: str | None
    source: str | None
    score: float
    used: bool


@dataclass(frozen=True)
class Answer:
    """An answer with its sources, or none.

    Attributes:
        answer: text of the best memory, or its best sentence; `None` where abstained.
        confidence: of the best memory, in [0, 1].
        sources: best first; the answer comes from the first.
        threshold: the confidence had to exceed it (or reach `min_confidence`, if that was given).
        calibrated: whether the threshold rests on the store's own facts; see `calibration`.
        threshold_from: `given` by the caller, calibrated on the `store`, or the `shipped` one.
        ms: milliseconds that answering took.
    """

    answer: str | None
    confidence: float
    abstained: bool
    sources: list[Source]
    threshold: float
    calibrated: bool
    threshold_from: str
    ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)


def ask(
    store: Memories,
    question: str,
    k: int | None = None,
    min_confidence: float | None = None,
    space: str = "default",
    calibration: Calibration | None = None,
    config: AskConfig | None = None,
    where: Mapping[str, Any] | None = None,
) -> Answer:
    """Answer a question from the memories of one space, or of those with some metadata, or abstain.

    Cost: one search and `config.candidates` comparisons, a few milliseconds; the first question after a change of the
    store also calibrates, and the first behind a filter reads the text of all rows that it leaves.

    Args:
        k: sources to return; default `config.k`.
        min_confidence: answer from this confidence on, and do not calibrate.
        calibration: one to use as it is; default: that of the store.
        where: metadata that a memory must have, all of it, with equal values; others have no part in the answer, its
            confidence or its sources. The threshold stays that of the whole space, and its guarantee is for questions
            put to all of it.

    Raises:
        UserError: if the question is blank or no valid Unicode, `k` is below 1, `min_confidence` is outside [0, 1],
            the space does not exist, or `where` is no JSON.
    """
    began = perf_counter()
    config = config or AskConfig()
    k = config.k if k is None else k
    min_confidence = config.min_confidence if min_confidence is None else min_confidence
    _check(question, k, min_confidence)
    parsed = parse_question(question)
    ranked = rank(MemoryView(store, space, where), parsed, max(config.candidates, k)) if parsed.words else []
    confidence = ranked[0].confidence if ranked else 0.0
    if min_confidence is not None:
        threshold, calibrated, origin = min_confidence, False, "given"
        answered = bool(ranked) and confidence >= threshold
    else:
        calibration = calibration or calibrate(store, space, config)
        threshold, calibrated = calibration.threshold, calibration.calibrated
        origin = "store" if calibrated else "shipped"
        answered = bool(ranked) and confidence > threshold
    sources = [_source(one, answered and place == 0) for place, one in enumerate(ranked[:k])]
    answer = _answer(ranked[0], parsed) if answered else None
    ms = (perf_counter() - began) * 1e3
    return Answer(answer, confidence, not answered, sources, threshold, calibrated, origin, ms)


def _answer(best: Ranked, question: Question) -> str:
    passage = best.candidate.passage
    # with a key the text is the value, all of it; without one a sentence of a longer text may do.
    return (
        passage.text.strip() if passage.key_words else extract_answer(passage.text, dict.fromkeys(question.terms, 1.0))
    )


def _source(ranked: Ranked, used: bool) -> Source:
    row = ranked.candidate.row
    return Source(row.id, row.text, row.key, row.source, ranked.confidence, used)


def _check(question: str, k: int, min_confidence: float | None) -> None:
    if not question.strip():
        raise UserError("QUESTION must not be empty; got ''. Write what you want to know.")
    check_unicode(question, "QUESTION")
    if k < 1:
        raise UserError(f"--k must be at least 1; got {k}.")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise UserError(f"--min-confidence must lie between 0 and 1; got {min_confidence}.")

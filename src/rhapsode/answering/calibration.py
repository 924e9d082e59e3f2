"""How sure is sure enough, for one store: questions about facts that are left out, and the shipped pairs.

The guarantee, exactly. Let s_1 ... s_N be the confidences of N questions about facts of this store, each asked while
its own fact is left out, and s that of a new question whose fact was never taught. If s and the s_i are exchangeable,
which holds when the new fact could as well have been among those taught and is asked for in the same way, and
leaving one fact out of the store changes no other score, then

    P(s > threshold) <= a

where the probability is over store and question together (`conformal_threshold`). It says nothing about one given
question, about questions of another form, nor about facts that *were* taught: those may be refused. The threshold is
the larger one of this and that of the shipped pairs (never below even odds), so it holds for both kinds of questions
without an answer, and for any mixture of them. With fewer than 1 / a questions nothing can be promised: the shipped
threshold is used alone, and the calibration says so.

How a left-out fact is asked for: by its key, in one of several forms; without a key, by the words of its first sentence
up to the last third, where the new information tends to stand. Of the latter, questions that another memory holds in
every word are set aside: they have an answer.
"""

from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from weakref import WeakKeyDictionary

from rhapsode.answering.confidence import load_confidence
from rhapsode.answering.config import AskConfig
from rhapsode.answering.conformal import conformal_threshold
from rhapsode.answering.contracts import Memories
from rhapsode.answering.extract import split_sentences
from rhapsode.answering.question import Question, content_terms, parse_question
from rhapsode.answering.ranking import rank
from rhapsode.answering.view import MemoryView
from rhapsode.memory.contracts import Row
from rhapsode.memory.encoders.words import split_words

KEY_FORMS = ("{}", "What is {}?", "What is the {}?", "Tell me about {}.", "Who or what is {}?")


@dataclass(frozen=True)
class Calibration:
    """From which confidence on a question is answered.

    Attributes:
        threshold: answer above it.
        calibrated: whether it rests on the store's own facts, and so on the guarantee.
        num_negatives: N, questions about left-out facts.
        error_rate: a.
    """

    threshold: float
    calibrated: bool
    num_negatives: int
    error_rate: float


_Settings = tuple[str, float, int, int]
# a store that is closed and forgotten takes its calibrations along.
_CALIBRATIONS: WeakKeyDictionary[Memories, dict[_Settings, tuple[int, Calibration]]] = WeakKeyDictionary()


def calibrate(store: Memories, space: str = "default", config: AskConfig | None = None) -> Calibration:
    """Return the calibration of one space; it is measured anew only after the store has changed.

    Cost when it has: one search for each of `config.num_negatives` facts, a fraction of a second.
    """
    config = config or AskConfig()
    known = _CALIBRATIONS.setdefault(store, {})
    settings = (space, config.error_rate, config.num_negatives, config.candidates)
    seq = store.seq
    if settings not in known or known[settings][0] != seq:
        known[settings] = (seq, measure(MemoryView(store, space), config))
    return known[settings][1]


def measure(view: MemoryView, config: AskConfig) -> Calibration:
    """Ask for facts that are left out, and put the threshold where the shipped pairs and the guarantee want it."""
    shipped = load_confidence().shipped_threshold(config.error_rate)
    scores = [
        score for row in view.sample(config.num_negatives) if (score := score_without(view, row, config)) is not None
    ]
    own = conformal_threshold(scores, config.error_rate)
    threshold = shipped if own is None else max(own, shipped)
    return Calibration(threshold, own is not None, len(scores), config.error_rate)


def score_without(view: MemoryView, row: Row, config: AskConfig) -> float | None:
    """Return the confidence with which a left-out fact's question would be answered; `None` if it is set aside."""
    question = question_about(row)
    if not question.words:
        return None
    ranked = rank(view, question, config.candidates, without=row)
    if not ranked:
        return 0.0
    best = ranked[0]
    if not has_own_key(row.key, row.text) and any(other.candidate.evidence.all_found for other in ranked):
        return None
    return best.confidence


def question_about(row: Row) -> Question:
    """Return how a stored fact is asked for; see the module. A pure function of the row's key and text."""
    if not has_own_key(row.key, row.text):
        return pseudo_question(row.text)
    choice = blake2b(str(row.key).encode(), digest_size=1).digest()[0]
    return parse_question(KEY_FORMS[choice % len(KEY_FORMS)].format(row.key))


def pseudo_question(text: str) -> Question:
    """Return the words that ask for a fact without a key: those of its first sentence, up to the last third."""
    sentences = split_sentences(text)
    words = split_words(sentences[0] if sentences else text)
    terms = content_terms(words)
    kept = terms[: ceil(len(terms) * 2 / 3)]
    return Question(text, tuple(word for word in words if word in kept), kept)


def has_own_key(key: str | None, text: str) -> bool:
    """Return whether a fact has a key that is more than its own text."""
    return bool(key) and split_words(str(key)) != split_words(text)

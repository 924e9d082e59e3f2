"""What speaks for a memory as the answer to a question, in numbers between -1 and 1.

A name that was never taught, in a sentence like one that was, is the case to guard against: most words are
covered, and the one that matters is not. So besides the covered share there is the weight of the heaviest word that is
missing, and whether a key is in the question as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from rhapsode.answering.matching import INFLECTED, WordSet
from rhapsode.answering.question import Question, content_terms
from rhapsode.answering.vocabulary import FUNCTION_WORDS, stem
from rhapsode.answering.weights import Term
from rhapsode.memory.encoders.words import split_words


@dataclass(frozen=True)
class Passage:
    """A memory, taken apart.

    Attributes:
        key_words: words of its key; empty if it has none, or none but its own text.
        stems: of all words but function words, key first, in order.
        words: words of key and text.
    """

    text: str
    key_words: tuple[str, ...]
    stems: tuple[str, ...]
    key: WordSet
    words: WordSet

    @classmethod
    def of(cls, key: str | None, text: str) -> "Passage":
        """Take a memory apart. Cost O(length)."""
        text_words, key_words = split_words(text), split_words(key or "")
        if key_words == text_words:
            key_words = []
        stems = tuple(stem(word) for word in (*key_words, *text_words) if word not in FUNCTION_WORDS)
        return cls(text, tuple(key_words), stems, WordSet.of(key_words), WordSet.of([*key_words, *text_words]))


@dataclass(frozen=True)
class Evidence:
    """The features of one memory for one question; the order is that of the coefficients."""

    coverage: float
    """Share of the question's weight that the memory holds."""
    fuzzy_gain: float
    """What words that are spelt alike would add to it."""
    all_found: float
    """1 if every term is held."""
    worst_missing: float
    """Weight of the heaviest term that is not held, by its best spelling match."""
    unknown_missing: float
    """1 if a term is not held that no memory holds, and that is no common word; less if it is spelt alike."""
    known_missing: float
    """The same for a term that other memories hold: there it tells one fact from another. Spelling does not count."""
    number_missing: float
    """1 if a term with a digit is not held."""
    keyless: float
    """1 if the memory has no key of its own."""
    key_complete: float
    """1 if the question holds every term of the key."""
    key_partial: float
    """Share of the key's terms that the question holds, if not all."""
    key_equal: float
    """1 if the question is the key, word for word."""
    beyond_key: float
    """Share of the question's weight that only the text holds, where the key is not complete."""
    only_name: float
    """1 if the question has a single term, and it is not the key that the memory has."""
    together: float
    """Mean over neighbours in the question that the memory holds: 1 if neighbours there too, 1/2 with one word between,
    else 0; function words do not count. 1 if there are none."""
    first: float
    """1 if the search put the memory first."""
    margin: float = 0.0
    """Covered share, less that of the best other memory; at most 0.3, because a small memory has few others."""

    def vector(self) -> Float64[np.ndarray, " F"]:
        """Return the features in order."""
        return np.array([getattr(self, name) for name in FEATURES], dtype=np.float64)


_WIDEST_MARGIN = 0.3
FEATURES = tuple(field.name for field in fields(Evidence))


def gather(question: Question, passage: Passage, terms: Sequence[Term], first: bool) -> Evidence:
    """Compare one question with one memory, without regard to the others.

    Args:
        terms: the question's.
        first: whether the search put it first.
    """
    total = sum(term.weight for term in terms) or 1.0
    exact = fuzzy = worst = unknown = known = in_key = 0.0
    number_missing = missing = False
    for term in terms:
        match = passage.words.match(term.word)
        # a word that some memory holds is no slip of the pen for another: the garden is not the gardener.
        likeness = match.exact if term.held else match.fuzzy
        exact += term.weight * match.exact
        fuzzy += term.weight * likeness
        worst = max(worst, term.weight * (1 - likeness))
        if term.held:
            known = max(known, 1 - likeness)
        elif not term.common:
            unknown = max(unknown, 1 - likeness)
        missing = missing or match.exact == 0
        number_missing = number_missing or (match.exact == 0 and not term.word.isalpha())
        if passage.key_words:
            in_key += term.weight * min(match.exact, passage.key.match(term.word).exact)
    complete, partial = _key_recall(question, passage)
    return Evidence(
        coverage=exact / total,
        fuzzy_gain=(fuzzy - exact) / total,
        all_found=float(not missing),
        worst_missing=worst,
        unknown_missing=unknown,
        known_missing=known,
        number_missing=float(number_missing),
        keyless=float(not passage.key_words),
        key_complete=float(complete),
        key_partial=0.0 if complete else partial,
        key_equal=float(passage.key_words == question.words and bool(passage.key_words)),
        beyond_key=0.0 if complete or not passage.key_words else (exact - in_key) / total,
        only_name=float(len(question.terms) == 1 and bool(passage.key_words) and not complete),
        together=_together(question, passage),
        first=float(first),
    )


def with_margins(evidence: Sequence[Evidence], passages: Sequence[Passage]) -> list[Evidence]:
    """Return `evidence` with `margin` filled in: against the best memory with another key and text."""
    strengths = [e.coverage + e.fuzzy_gain for e in evidence]
    filled = []
    for i, own in enumerate(evidence):
        others = [
            strengths[j]
            for j, passage in enumerate(passages)
            if passage.text != passages[i].text
            and not (passage.key_words and passage.key_words == passages[i].key_words)
        ]
        filled.append(replace(own, margin=min(_WIDEST_MARGIN, strengths[i] - max(others, default=0.0))))
    return filled


def _together(question: Question, passage: Passage) -> float:
    held = passage.words.stems
    pairs = [
        (stem(one), stem(other))
        for one, other in pairwise(question.words)
        if one in question.terms and other in question.terms and stem(one) in held and stem(other) in held
    ]
    if not pairs:
        return 1.0
    next_door, one_between = set(pairwise(passage.stems)), set(zip(passage.stems, passage.stems[2:], strict=False))
    return sum(1.0 if pair in next_door else 0.5 * (pair in one_between) for pair in pairs) / len(pairs)


def _key_recall(question: Question, passage: Passage) -> tuple[bool, float]:
    if not passage.key_words:
        return False, 0.0
    asked = WordSet.of(question.words)
    terms = content_terms(passage.key_words)
    found = [asked.match(term).exact for term in terms]
    # a related word will not do: the designer of a thing is not its inventor.
    return min(found) >= INFLECTED, sum(found) / len(found)

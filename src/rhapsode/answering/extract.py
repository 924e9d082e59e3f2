"""From a memory to an answer: the part of its text that covers most of the question."""

import re
from collections.abc import Mapping

from rhapsode.answering.matching import WordSet
from rhapsode.memory.encoders.words import split_words

# a full stop after one capital letter or a short title ends no sentence.
_END = re.compile(r"(?<!\b[A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bSt)[.!?]+[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_STOPS = re.compile(r"(?<=[。！？])|\n\s*\n")


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences; blank lines cut as well.

    >>> split_sentences("It was built in 1987. J. Reis paid for it! Why? Nobody knows")
    ['It was built in 1987.', 'J. Reis paid for it!', 'Why?', 'Nobody knows']
    """
    sentences = []
    for part in _STOPS.split(text):
        start = 0
        for end in _END.finditer(part):
            sentences.append(part[start : end.end()].strip())
            start = end.end()
        sentences.append(part[start:].strip())
    return [sentence for sentence in sentences if sentence]


def extract_answer(text: str, weights: Mapping[str, float]) -> str:
    """Return the sentence of `text` that covers most of the question, or all of a text with one sentence.

    A sentence is preferred over the whole only if it covers all that the whole covers: otherwise the answer would lose
    what it is about.

    Args:
        text: of the memory.
        weights: the question's terms and how much each counts.
    """
    sentences = split_sentences(text)
    if len(sentences) < 2:
        return text.strip()
    whole = _coverage(text, weights)
    best = max(sentences, key=lambda sentence: _coverage(sentence, weights))
    return best if whole > 0 and _coverage(best, weights) >= whole - 1e-9 else text.strip()


def _coverage(text: str, weights: Mapping[str, float]) -> float:
    found = WordSet.of(split_words(text))
    return sum(weight * found.match(term).fuzzy for term, weight in weights.items())

"""Text to the terms that full-text search counts.

Words are runs of letters, marks and digits, with letter case and the accents of Latin and Greek letters removed, as
SQLite's `unicode61` does. Scripts that put no space between words (Chinese, Japanese, Korean particles, Thai, Lao,
Khmer, Burmese, Tibetan) give every two and three characters that stand side by side.
"""

import re
import unicodedata
from collections import Counter
from functools import cache

MAX_TERM_LENGTH = 64
"""Longer words are cut here, in characters: a page of base64 is not a word."""
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ASCII_WORD = re.compile(r"[0-9a-z]+")
_ACCENTED = re.compile("([a-z\u0370-\u03ff\u1f00-\u1fff])[\u0300-\u036f]+")


def fold(text: str) -> str:
    """Return `text` in the form that is compared: compatibility forms, letter case and accents removed.

    >>> fold("Straße Ｃafé")
    'strasse cafe'
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTED.sub(r"\1", decomposed))


def find_terms(text: str) -> list[str]:
    """Return the terms of `text` in order, repetitions included. Cost O(length).

    >>> find_terms("It's C++, isn't it?")
    ['it', 's', 'c', 'isn', 't', 'it']
    >>> find_terms("東京都")
    ['東京', '京都', '東京都']
    """
    folded = fold(text)
    if folded.isascii():
        return [word[:MAX_TERM_LENGTH] for word in _ASCII_WORD.findall(folded)]
    terms: list[str] = []
    word, unspaced = _patterns()
    for run in word.findall(folded):
        if unspaced.match(run) is None:
            terms.append(run[:MAX_TERM_LENGTH])
        elif len(run) == 1:
            terms.append(run)
        else:
            terms += [run[i : i + n] for n in (2, 3) for i in range(len(run) - n + 1)]
    return terms


def searchable(key: str | None, text: str) -> str:
    """Return what a row is found by: its key, unless that is only its text again, and its text."""
    return text if key is None or find_terms(key) == find_terms(text) else f"{key}\n{text}"


def count_terms(text: str) -> Counter[str]:
    """Return how often each term stands in `text`."""
    return Counter(find_terms(text))


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Build the pattern of runs, each of one kind of script, and that of an unspaced run.

    Marks are part of words, but `\\w` leaves them out; they are found once, on the first text that is not ASCII.
    """
    marks = [code for code in range(0x300, 0x1E000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    spans: list[list[int]] = []
    for code in marks:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    mark = "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)
    # a mark belongs to the letter before it, so the class of unspaced letters keeps its own marks only.
    word = re.compile(f"[{_UNSPACED}]+|(?:(?![{_UNSPACED}_])[\\w{mark}])+")
    return word, re.compile(f"[{_UNSPACED}]")

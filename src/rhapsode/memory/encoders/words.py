"""Words of a text, for encoders and for comparing a question with a memory."""

import re
from itertools import pairwise

from rhapsode.memory.terms import fold

# scripts that put no space between words: Thai to Myanmar, Khmer, kana, ideographs.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
# marks that belong to the letter before them; Python's \w leaves them out.
_MARKS = "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u200c\u200d"
_LETTER = f"(?:[^\\W_{_UNSPACED}]|[{_MARKS}])"
# 3.14 and 1,000 are one word each, and so are c++ and c#.
_WORD = re.compile(f"[0-9]+(?:[.,][0-9]+)+(?!{_LETTER})|{_LETTER}+(?:[+#]+(?!\\w))?|[{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def split_words(text: str) -> list[str]:
    """Return the words of `text` in order: letter case, accents and compatible forms folded, without punctuation.

    Full-text search has the same words (`rhapsode.memory.terms`), but here a number with its separators is one. A run
    of a script without spaces becomes overlapping pairs of characters, so that its parts can be found. Cost O(length).

    >>> split_words("Wrote read_text(), C++ and 3.14: it's OK.")
    ['wrote', 'read', 'text', 'c++', 'and', '3.14', 'it', 's', 'ok']
    >>> split_words("東京都")
    ['東京', '京都']
    """
    folded = fold(text)
    if folded.isascii():
        found: list[str] = _WORD.findall(folded)
        return found
    words: list[str] = []
    for word in _WORD.findall(folded):
        if len(word) > 1 and _IS_UNSPACED.match(word):
            words += [a + b for a, b in pairwise(word)]
        else:
            words.append(word)
    return words

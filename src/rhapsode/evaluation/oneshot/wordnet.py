"""Reads the dictionary files of WordNet (Miller 1995) and finds inflected words in sentences. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rhapsode.errors import StateError, UserError

PARTS = ("noun", "verb", "adj", "adv")
# a sentence, and the author it is taken from.
_QUOTED = re.compile(r'"([^"]*)"(?:\s*-+\s*[A-Z][^;]*)?')
_MARKER = re.compile(r"\((?:p|a|ip)\)$")
_TOKEN = re.compile(r"[^\W_]+")
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Sense:
    """A set of synonyms with one meaning: `lemmas` in lower case with spaces, what it means, its sentences, and
    which of `PARTS` of speech it is."""

    key: str
    lemmas: tuple[str, ...]
    gloss: str
    usages: tuple[str, ...]
    part: str


@dataclass(frozen=True)
class WordNet:
    """All senses, and the irregular forms of a base word."""

    senses: list[Sense]
    irregular: Mapping[str, tuple[str, ...]]


def read_wordnet(folder: str | Path) -> WordNet:
    """Read `data.*` and `*.exc` of a `dict` folder, such as /usr/share/wordnet of the package wordnet-base.

    Raises:
        UserError: if the folder has no data.noun.
        StateError: if a line of a file is damaged, naming it.
    """
    folder = Path(folder)
    if not (folder / "data.noun").is_file():
        raise UserError(
            f"--wordnet must name the folder with data.noun, data.verb and the others; got {folder}. "
            "Install the package wordnet-base and give /usr/share/wordnet."
        )
    senses: list[Sense] = []
    irregular: dict[str, list[str]] = {}
    for part in PARTS:
        path = folder / f"data.{part}"
        for number, line in enumerate(_lines(path), start=1):
            if line.strip() and not line.startswith("  "):
                senses.append(_parse_sense(line, part, f"{path}:{number}"))
        for line in _lines(folder / f"{part}.exc"):
            form, *bases = line.split()
            for base in bases:
                irregular.setdefault(base.replace("_", " "), []).append(form.replace("_", " "))
    return WordNet(senses, {base: tuple(dict.fromkeys(forms)) for base, forms in irregular.items()})


def inflections(lemma: str, irregular: Mapping[str, Sequence[str]]) -> set[tuple[str, ...]]:
    """Return every form a lemma can take, each as its words: plurals, tenses, comparisons, regular and irregular.

    All parts of speech are taken together, so that blanking hides too much rather than too little. In a lemma of
    several words the first or the last may change.
    """
    words = tuple(_TOKEN.findall(lemma.lower()))
    forms = {words, *(tuple(_TOKEN.findall(form)) for form in irregular.get(lemma, ()))}
    for position in {0, len(words) - 1} if words else ():
        word = words[position]
        for form in {*_regular(word), *irregular.get(word, ())}:
            forms.add((*words[:position], form, *words[position + 1 :]))
    return {form for form in forms if form}


def find_forms(text: str, forms: set[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Return where any form stands in a text, as character spans, longest first at each place, none overlapping."""
    tokens = [(match.group().lower(), match.start(), match.end()) for match in _TOKEN.finditer(text)]
    lengths = sorted({len(form) for form in forms}, reverse=True)
    spans, position = [], 0
    while position < len(tokens):
        for length in lengths:
            window = tokens[position : position + length]
            if len(window) == length and tuple(token for token, _, _ in window) in forms:
                spans.append((window[0][1], window[-1][2]))
                position += length
                break
        else:
            position += 1
    return spans


def replace_spans(text: str, spans: Sequence[tuple[int, int]], replacement: str) -> str:
    """Put `replacement` at every span."""
    for start, end in reversed(spans):
        text = text[:start] + replacement + text[end:]
    return text


def _parse_sense(line: str, part: str, where: str) -> Sense:
    head, bar, gloss = line.partition(" | ")
    fields = head.split()
    try:
        count = int(fields[3], 16)
        lemmas = [_MARKER.sub("", fields[4 + 2 * i]).replace("_", " ").lower() for i in range(count)]
        key = fields[2] + fields[0]
    except (IndexError, ValueError):
        bar = ""
    if not bar:
        raise StateError(f"{where} must be a line of WordNet data, but it is damaged. Install wordnet-base again.")
    usages = tuple(usage.strip() for usage in _QUOTED.findall(gloss) if usage.strip())
    meaning = re.sub(r"[\s;:,]+$", "", re.sub(r"\s*;(?:\s*;)*", ";", _QUOTED.sub("", gloss)).strip(" ;"))
    return Sense(key, tuple(dict.fromkeys(lemmas)), meaning, usages, part)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} must be readable text; got: {error}. Install wordnet-base again.") from None


def _regular(word: str) -> set[str]:
    forms = {word + ending for ending in ("", "s", "es", "d", "ed", "r", "er", "st", "est", "ing")}
    if word.endswith("y"):
        forms |= {word[:-1] + ending for ending in ("ies", "ied", "ier", "iest")}
    if word.endswith("e"):
        forms.add(word[:-1] + "ing")
    if word.endswith("ie"):
        forms.add(word[:-2] + "ying")
    if word.endswith("f"):
        forms.add(word[:-1] + "ves")
    if word.endswith("fe"):
        forms.add(word[:-2] + "ves")
    if len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS:
        forms |= {word + word[-1] + ending for ending in ("ed", "er", "est", "ing")}
    return forms

"""The honest task: from a gloss and a sentence, know a word in another sentence where it is blanked out. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from rhapsode.config import Config
from rhapsode.errors import UserError
from rhapsode.evaluation.oneshot.task import nonce_words
from rhapsode.evaluation.oneshot.wordnet import Sense, WordNet, find_forms, inflections

BLANK = "____"
Variant = Literal["blanked", "visible", "nonce"]
VARIANTS: tuple[Variant, ...] = ("blanked", "visible", "nonce")
SPLITS = ("test", "validation", "train")
_MIN_WORDS = 20


class WordNetConfig(Config):
    """Sizes of the task."""

    test_share: float = Field(default=0.6, gt=0, lt=1)
    """Share of the words that are tested; words with one sense in common stay together."""
    validation_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the words on which weights are fitted."""
    max_words: int | None = Field(default=None, ge=_MIN_WORDS)
    """Take only so many words, for a first look."""
    max_corpus: int | None = Field(default=None, ge=1)
    """Learn from only so many of the other senses."""
    max_queries: int = Field(default=4, ge=1)
    """Query sentences of a word, at most."""
    num_ways: tuple[int, ...] = (5, 20, 100)
    """How many words to choose from, beside all of them."""
    shots: tuple[int, ...] = (0, 1, 2)
    """How many sentences stand beside the gloss."""
    further: tuple[int, ...] = (100, 1_000, 10_000)
    """Words taught after the others, for retention."""


@dataclass(frozen=True)
class Marked:
    """A text with places for a word: one piece more than `forms`, the word as it stands there."""

    pieces: tuple[str, ...]
    forms: tuple[str, ...]

    def fill(self, forms: Sequence[str]) -> str:
        """Put a form at every place."""
        return "".join(a + b for a, b in zip(self.pieces, (*forms, ""), strict=True))

    @property
    def blanked(self) -> str:
        """The text with blanks."""
        return BLANK.join(self.pieces)


@dataclass(frozen=True)
class Word:
    """One word of the task, in one sense; every usage holds it."""

    lemma: str
    sense: str
    split: str
    gloss: Marked
    usages: tuple[Marked, ...]
    nonce: str


@dataclass(frozen=True)
class Entry:
    """What a method is taught of a word: its name unless it is blanked, and blanked texts; `plain` is all in one.

    `name` is what a person would type; in a nonce task no dictionary knows it.
    """

    name: str | None
    gloss: str
    usages: tuple[str, ...]
    plain: str


@dataclass(frozen=True)
class Query:
    """What a method is asked: the blanked sentence, the word as it stands in it unless hidden; `plain` is both."""

    word: str | None
    text: str
    plain: str


@dataclass(frozen=True)
class HonestTask:
    """The words, and the text of all other senses, from which methods may learn.

    `corpus` has no sense of a word that is tested or fitted on, and none of their sentences.
    """

    words: list[Word]
    corpus: list[Sense]
    irregular: Mapping[str, tuple[str, ...]]
    config: WordNetConfig
    seed: int

    def indices(self, split: str) -> list[int]:
        """Return the positions of the words of a split."""
        return [i for i, word in enumerate(self.words) if word.split == split]

    def entries(self, variant: Variant, shots: int) -> list[Entry]:
        """Return what is taught of every word: its first sentences, as many as it has up to `shots`."""
        return [_make_entry(word, variant, shots) for word in self.words]

    def queries(self, variant: Variant, shots: int, split: str) -> tuple[list[int], list[Query]]:
        """Return the position of the word asked about and the query, for every sentence that was not taught.

        Words with too few sentences for so many shots are left out.
        """
        targets, queries = [], []
        for i in self.indices(split):
            word = self.words[i]
            for usage in word.usages[max(shots, 1) :][: self.config.max_queries]:
                targets.append(i)
                queries.append(_make_query(word, usage, variant))
        return targets, queries

    def further_entries(self, number: int) -> list[Entry]:
        """Return entries of up to `number` other words, with name and gloss, from the corpus."""
        known = {word.lemma for word in self.words}
        found: dict[str, Entry] = {}
        order = np.random.default_rng([self.seed, 2]).permutation(len(self.corpus))
        for position in order.tolist():
            sense = self.corpus[position]
            for lemma in sense.lemmas:
                if lemma not in known and lemma not in found and len(found) < number:
                    found[lemma] = Entry(lemma, sense.gloss, (), f"{lemma}: {sense.gloss}")
        return list(found.values())


def make_wordnet_task(wordnet: WordNet, config: WordNetConfig | None = None, seed: int = 0) -> HonestTask:
    """Choose words with at least two sentences in one sense, split them by sense, and blank out their forms.

    Of a word with several such senses the first is taken. Sentences are in random order.

    Raises:
        UserError: if WordNet has fewer than 20 such words.
    """
    config = config or WordNetConfig()
    random = np.random.default_rng(seed)
    chosen: dict[str, tuple[Sense, list[Marked], set[tuple[str, ...]]]] = {}
    for sense in wordnet.senses:
        for lemma in sense.lemmas if len(sense.usages) > 1 else ():
            if lemma not in chosen:
                forms = inflections(lemma, wordnet.irregular)
                usages = [mark(text, forms) for text in sense.usages]
                # "heating" in a sentence is the synonym of that name, not a form of "heat".
                others = set(sense.lemmas) - {lemma}
                usages = [usage for usage in usages if usage.forms and not {f.lower() for f in usage.forms} & others]
                if len(usages) > 1:
                    chosen[lemma] = sense, usages, forms
    if len(chosen) < _MIN_WORDS:
        raise UserError(f"--wordnet must have {_MIN_WORDS} words with two sentences in one sense; got {len(chosen)}.")
    lemmas = sorted(chosen)
    if config.max_words is not None:
        lemmas = sorted(random.permutation(lemmas)[: config.max_words].tolist())
    splits = _split_senses(sorted({chosen[lemma][0].key for lemma in lemmas}), config, random)
    nonces = _invent(len(lemmas), {lemma for sense in wordnet.senses for lemma in sense.lemmas}, seed)
    words = []
    for lemma, nonce in zip(lemmas, nonces, strict=True):
        sense, usages, forms = chosen[lemma]
        shuffled = tuple(usages[i] for i in random.permutation(len(usages)))
        words.append(Word(lemma, sense.key, splits[sense.key], mark(sense.gloss, forms), shuffled, nonce))
    corpus = _corpus(wordnet, words, chosen)
    if config.max_corpus is not None:
        corpus = [corpus[i] for i in random.permutation(len(corpus))[: config.max_corpus]]
    return HonestTask(words, corpus, wordnet.irregular, config, seed)


def mark(text: str, forms: set[tuple[str, ...]]) -> Marked:
    """Cut a text at every place where one of `forms` stands."""
    pieces, found, position = [], [], 0
    for start, end in find_forms(text, forms):
        pieces.append(text[position:start])
        found.append(text[start:end])
        position = end
    return Marked((*pieces, text[position:]), tuple(found))


def inflect_like(lemma: str, form: str, nonce: str) -> str:
    """Give an invented word the regular ending that `form` has beyond `lemma`.

    >>> [inflect_like("make", form, "zorb") for form in ("make", "makes", "making", "made")]
    ['zorb', 'zorbs', 'zorbing', 'zorb']
    """
    form = form.lower()
    for stem in (lemma, lemma[:-1]):
        ending = form[len(stem) :]
        if stem and form.startswith(stem) and ending in ("s", "es", "ed", "d", "ing", "er", "r", "est", "st", "ly"):
            return nonce + ending
    return nonce


def _make_entry(word: Word, variant: Variant, shots: int) -> Entry:
    usages = word.usages[:shots]
    texts = tuple(usage.blanked for usage in usages)
    if variant == "blanked":
        return Entry(None, word.gloss.blanked, texts, _without_blanks("; ".join([word.gloss.blanked, *texts])))
    name = word.lemma if variant == "visible" else word.nonce
    shown = [marked.fill(_shown(word, marked, variant)) for marked in (word.gloss, *usages)]
    return Entry(name, word.gloss.blanked, texts, f"{name}: {'; '.join(shown)}")


def _make_query(word: Word, usage: Marked, variant: Variant) -> Query:
    if variant == "blanked":
        return Query(None, usage.blanked, _without_blanks(usage.blanked))
    forms = _shown(word, usage, variant)
    return Query(forms[0], usage.blanked, f"{forms[0]}: {usage.fill(forms)}")


def _shown(word: Word, marked: Marked, variant: Variant) -> list[str]:
    if variant == "visible":
        return list(marked.forms)
    return [inflect_like(word.lemma, form, word.nonce) for form in marked.forms]


def _without_blanks(text: str) -> str:
    return " ".join(text.replace(BLANK, " ").split())


def _split_senses(senses: list[str], config: WordNetConfig, random: np.random.Generator) -> dict[str, str]:
    edges = np.cumsum([config.test_share, config.validation_share]) * len(senses)
    numbers = np.searchsorted(edges, np.arange(len(senses)), side="right")
    return {senses[i]: SPLITS[number] for i, number in zip(random.permutation(len(senses)), numbers, strict=True)}


def _corpus(
    wordnet: WordNet, words: Sequence[Word], chosen: Mapping[str, tuple[Sense, list[Marked], set[tuple[str, ...]]]]
) -> list[Sense]:
    held = [word for word in words if word.split != "train"]
    lemmas = {word.lemma for word in held}
    sentences = {text for word in held for text in chosen[word.lemma][0].usages}
    return [
        replace(sense, usages=tuple(text for text in sense.usages if text not in sentences))
        for sense in wordnet.senses
        if not lemmas & set(sense.lemmas)
    ]


def _invent(number: int, known: set[str], seed: int) -> list[str]:
    random = np.random.default_rng([seed, 1])
    found = [word for word in nonce_words(random, number + 200) if word not in known]
    return found[:number]

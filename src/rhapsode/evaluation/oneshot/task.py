"""The document's task made anew: nonce words, each with a definition and a usage inside random filler. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from rhapsode.config import Config
from rhapsode.evaluation.oneshot.contracts import Story

_ONSETS = "b bl br d dr f fl g gl gr k kl kr l m n p pl pr r s sk sl sn st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo ou".split()
_CODAS = "b d g k l m n p r s t x z ck lt nd nk rm st".split()


class TaskConfig(Config):
    """Sizes of the replica."""

    words_with: Mapping[int, int] = {1: 20, 2: 4, 3: 4, 4: 4, 5: 4}
    """How many words have how many stories. The document has 20 words with 1 to 5; we add words with one."""
    test_stories: int = Field(default=5, ge=1)
    """Test stories for each word."""
    more_words: int = Field(default=100, ge=0)
    """Words taught afterwards, one story each, for retention."""
    untaught_words: int = Field(default=20, ge=1)
    """Words that are asked but never taught, for abstention; half of them calibrate."""
    definition_words: int = Field(default=3, ge=1)
    """Words of a definition, drawn from a vocabulary of 60."""
    usage_words: int = Field(default=2, ge=1)
    """Words of a usage beside the word itself, drawn from the same."""
    filler_words: int = Field(default=6, ge=0)
    """Random words around them, drawn from a vocabulary of 150."""


@dataclass(frozen=True)
class Task:
    """One replica: `num_stories` maps a taught word to its training stories."""

    train: list[Story]
    test: list[Story]
    more: list[Story]
    untaught: list[Story]
    num_stories: dict[str, int]


def make_task(seed: int, config: TaskConfig | None = None) -> Task:
    """Draw one replica of the task; equal seeds give equal tasks.

    Every story holds its word, its definition and its usage verbatim, as the document's do: what it measures is
    retrieval under filler, not understanding.
    """
    config = config or TaskConfig()
    random = np.random.default_rng(seed)
    counts = [count for count, number in config.words_with.items() for _ in range(number)]
    names = nonce_words(random, len(counts) + config.more_words + config.untaught_words + 210)
    content, filler, names = names[:60], names[60:210], names[210:]

    def describe(word: str) -> tuple[str, str, str]:
        definition = " ".join(random.choice(content, config.definition_words))
        before, after = np.split(random.choice(content, config.usage_words), [config.usage_words // 2])
        return word, definition, " ".join([*before, word, *after])

    def tell(word: str, definition: str, usage: str) -> Story:
        parts = [definition, usage, *random.choice(filler, config.filler_words)]
        random.shuffle(parts)
        return Story(" ".join([word, *parts] if random.random() < 0.5 else [*parts, word]), word, definition, usage)

    words = [describe(word) for word in names]
    taught, rest = words[: len(counts)], words[len(counts) :]
    more, untaught = rest[: config.more_words], rest[config.more_words :]
    return Task(
        train=[tell(*word) for word, count in zip(taught, counts, strict=True) for _ in range(count)],
        test=[tell(*word) for word in taught for _ in range(config.test_stories)],
        more=[tell(*word) for word in more],
        untaught=[tell(*word) for word in untaught for _ in range(config.test_stories)],
        num_stories={word[0]: count for word, count in zip(taught, counts, strict=True)},
    )


def nonce_words(random: np.random.Generator, number: int) -> list[str]:
    """Distinct pronounceable strings of two syllables, the second closed."""
    words: dict[str, None] = {}
    while len(words) < number:
        parts = [random.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)]
        words["".join(parts)] = None
    return list(words)

"""How well a word of a question is found among the words of a memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from rhapsode.answering.vocabulary import RELATIONS, stem

INFLECTED, RELATED = 0.95, 0.8
FUZZY_LENGTH = 5
FUZZY_LIMIT = 0.7
SLIP = 0.85


@dataclass(frozen=True)
class Match:
    """Shares in [0, 1]: `exact` counts equal, inflected and related words; `fuzzy` also words that are spelt alike."""

    exact: float
    fuzzy: float


NO_MATCH = Match(0.0, 0.0)


@dataclass(frozen=True)
class WordSet:
    """The words of a memory, ready to be compared with."""

    words: frozenset[str]
    stems: frozenset[str] = field(init=False)
    relations: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        stems = frozenset(map(stem, self.words))
        relations = frozenset(number for word in stems for number in RELATIONS.get(word, ()))
        object.__setattr__(self, "stems", stems)
        object.__setattr__(self, "relations", relations)

    @classmethod
    def of(cls, words: Iterable[str]) -> "WordSet":
        """Collect words."""
        return cls(frozenset(words))

    def match(self, word: str) -> Match:
        """Return how well `word` is found. Words with a digit match only exactly: room 413 is not room 412.

        Cost O(1) if the word is found as it is or inflected, otherwise O(words x letters).
        """
        if word in self.words:
            return Match(1.0, 1.0)
        if not word.isalpha():
            return NO_MATCH
        root = stem(word)
        if root in self.stems:
            return Match(INFLECTED, INFLECTED)
        if not self.relations.isdisjoint(RELATIONS.get(root, ())):
            return Match(RELATED, RELATED)
        if len(word) < FUZZY_LENGTH:
            return NO_MATCH
        near = max((spelling_similarity(word, other) for other in self.words if _comparable(word, other)), default=0.0)
        return Match(0.0, near) if near >= FUZZY_LIMIT else NO_MATCH


def spelling_similarity(first: str, second: str) -> float:
    """Return twice the shared letter trigrams over all of them, boundary marks included (Dice 1945).

    A slip of the finger (one letter too many, too few, or two swapped) counts 0.85 at least. One letter in place of
    another counts nothing: it may be a slip too, but names differ like that, and rooms.

    >>> [round(spelling_similarity("zorblatt", word), 2) for word in ("zorblat", "zorbaltt", "zorblattic", "zorblett")]
    [0.85, 0.85, 0.78, 0.0]
    """
    if len(first) == len(second) and sum(a != b for a, b in zip(first, second, strict=True)) == 1:
        return 0.0
    one, other = _trigrams(first), _trigrams(second)
    shared = 2 * len(one & other) / (len(one) + len(other))
    return max(shared, SLIP) if is_slip(first, second) else shared


def is_slip(first: str, second: str) -> bool:
    """Return whether one of two different words is the other with one letter more, or two neighbours swapped.

    The first letter has to be right: there slips are rare.
    """
    short, long = sorted((first, second), key=len)
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if start == 0 or first == second:
        return False
    if len(short) == len(long):
        return short[start : start + 2] == long[start : start + 2][::-1] and short[start + 2 :] == long[start + 2 :]
    return len(long) == len(short) + 1 and short[start:] == long[start + 1 :]


@lru_cache(maxsize=1 << 14)
def _trigrams(word: str) -> frozenset[str]:
    marked = f"<{word}>"
    return frozenset(marked[i : i + 3] for i in range(len(marked) - 2)) or frozenset([marked])


def _comparable(word: str, other: str) -> bool:
    return len(other) >= FUZZY_LENGTH and abs(len(word) - len(other)) <= 3 and other.isalpha()

"""What a question asks for: its words without those that only ask."""

from collections.abc import Sequence
from dataclasses import dataclass

from rhapsode.answering.vocabulary import ASKING_WORDS, AUXILIARIES, FUNCTION_WORDS, KINDS
from rhapsode.memory.encoders.words import split_words

# alone at the end these are names: vitamin A, section I.
_LETTERS = frozenset("ai")


@dataclass(frozen=True)
class Question:
    """A question, taken apart.

    Attributes:
        words: all words, in order.
        terms: each word once that says what is asked for; all of the words if none does.
    """

    text: str
    words: tuple[str, ...]
    terms: tuple[str, ...]

    @property
    def is_vague(self) -> bool:
        """Whether it has no word that says what is asked for: only a key that is just the same can answer it."""
        return FUNCTION_WORDS.issuperset(self.terms)


def parse_question(text: str) -> Question:
    """Take a question apart.

    >>> parse_question("What do you know about the capital of Zorvania?").terms
    ('capital', 'zorvania')
    >>> parse_question("In which year was it built?").terms, parse_question("Who is it?").terms
    (('built',), ('who', 'is', 'it'))
    """
    words = tuple(split_words(text))
    return Question(text, words, content_terms(words, ASKING_WORDS | _kind_of_answer(words)))


def content_terms(words: Sequence[str], without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return each word once that is not a function word, nor in `without`; fall back to more where nothing is left."""
    for left_out in (FUNCTION_WORDS | without, FUNCTION_WORDS):
        terms = [word for i, word in enumerate(words) if word not in left_out or _names(words, i)]
        if terms:
            return tuple(dict.fromkeys(terms))
    return tuple(dict.fromkeys(words))


def _kind_of_answer(words: Sequence[str]) -> frozenset[str]:
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        if before in ("which", "what") and word in KINDS and after in AUXILIARIES:
            return frozenset([word])
    return frozenset()


def _names(words: Sequence[str], place: int) -> bool:
    return words[place] in _LETTERS and 0 < place == len(words) - 1 and words[place - 1] not in FUNCTION_WORDS

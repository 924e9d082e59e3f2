"""The n-gram memory straight from its definition, with dictionaries: slow, to be read and to test the fast one.

Everything is counted anew for every question, from the base text and the rows that are held now.
"""

from collections import defaultdict
from collections.abc import Sequence

from rhapsode.memory.kneser_ney_plain import Gram, PlainKneserNey

# what stands to the left of the first id: not the same for the base text and for rows.
_BASE_START, _ROW_START = -1, -2


class PlainNgramMemory:
    """The same predictions as `ngram_memory.NgramMemory`, one sum at a time.

    >>> memory = PlainNgramMemory([0, 1, 0, 1, 2], vocab_size=3, order=2)
    >>> memory.rows[5] = [2, 2]
    >>> round(sum(memory.probability(w, [2]) for w in range(3)), 12)
    1.0
    """

    def __init__(self, base: Sequence[int], vocab_size: int, order: int) -> None:
        """Keep the base text; `rows` maps numbers to ids and may be changed at will."""
        self.vocab_size = vocab_size
        self.order = order
        self.base = list(base)
        self.rows: dict[int, list[int]] = {}
        fallback = [(0.5, 1.0, 1.5)] * (order + 1)
        self.discounts = PlainKneserNey(self.base, vocab_size, order).discounts if self.base else fallback

    def counts(self) -> dict[Gram, int]:
        """Return the count of every n-gram: occurrences at the highest order, distinct left neighbours below it."""
        neighbours: defaultdict[Gram, set[int]] = defaultdict(set)
        occurrences: defaultdict[Gram, int] = defaultdict(int)
        texts = [(_BASE_START, self.base), *((_ROW_START, row) for row in self.rows.values())]
        for before, text in texts:
            for start in range(len(text)):
                for end in range(start + 1, min(start + self.order, len(text)) + 1):
                    gram = tuple(text[start:end])
                    occurrences[gram] += 1
                    neighbours[gram].add(text[start - 1] if start > 0 else before)
        return {gram: n if len(gram) == self.order else len(neighbours[gram]) for gram, n in occurrences.items()}

    def probability(self, token: int, context: Sequence[int]) -> float:
        """Return p(token | the last order - 1 ids of context)."""
        counts = self.counts()
        probability = 1 / self.vocab_size
        for length in range(min(self.order - 1, len(context)) + 1):
            history = tuple(context[len(context) - length :])
            children = [counts.get((*history, w), 0) for w in range(self.vocab_size)]
            total = sum(children)
            if total == 0:
                break
            kept = sum(self._discount(length, count) for count in children)
            own = children[token] - self._discount(length, children[token])
            probability = own / total + kept / total * probability
        return probability

    def match(self, context: Sequence[int]) -> tuple[int, int]:
        """Return the length of the longest end of context that something was seen to follow, and the total count."""
        counts = self.counts()
        best = (0, 0)
        for length in range(min(self.order - 1, len(context)) + 1):
            history = tuple(context[len(context) - length :])
            total = sum(counts.get((*history, w), 0) for w in range(self.vocab_size))
            if total == 0:
                break
            best = (length, total)
        return best

    def _discount(self, length: int, count: int) -> float:
        return 0.0 if count == 0 else self.discounts[length + 1][min(count, 3) - 1]

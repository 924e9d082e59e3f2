"""Interpolated Kneser-Ney straight from the equations, with dictionaries: slow, to be read and to test the fast one."""

from collections import defaultdict
from collections.abc import Sequence

Gram = tuple[int, ...]


class PlainKneserNey:
    """The same model as `kneser_ney.KneserNey`, one sum at a time.

    >>> model = PlainKneserNey([0, 1, 0, 1, 2], vocab_size=3, order=2)
    >>> round(sum(model.probability(w, [0]) for w in range(3)), 12)
    1.0
    """

    def __init__(self, ids: Sequence[int], vocab_size: int, order: int, discounting: str = "modified") -> None:
        """Count occurrences at order `order` and distinct left neighbours below; O(order N) time and memory."""
        self.vocab_size = vocab_size
        self.order = order
        # None stands for the start of the text, one more distinct left neighbour.
        left_neighbours: defaultdict[Gram, set[int | None]] = defaultdict(set)
        occurrences: defaultdict[Gram, int] = defaultdict(int)
        for length in range(1, order + 1):
            for start in range(len(ids) - length + 1):
                gram = tuple(ids[start : start + length])
                occurrences[gram] += 1
                left_neighbours[gram].add(ids[start - 1] if start > 0 else None)
        self.counts = {g: n if len(g) == order else len(left_neighbours[g]) for g, n in occurrences.items()}
        self.discounts = [
            _discounts([n for gram, n in self.counts.items() if len(gram) == length], discounting)
            for length in range(order + 1)
        ]

    def probability(self, token: int, context: Sequence[int]) -> float:
        """Return p(token | the last order - 1 ids of context). Cost O(order C)."""
        history = tuple(context[max(0, len(context) - self.order + 1) :])
        if not history:
            lower = 1 / self.vocab_size
        else:
            lower = self.probability(token, history[1:])
        counts = [self.counts.get((*history, w), 0) for w in range(self.vocab_size)]
        total = sum(counts)
        if total == 0:
            return lower
        discounts = [self._discount(len(history) + 1, count) for count in counts]
        return max(counts[token] - discounts[token], 0) / total + sum(discounts) / total * lower

    def match_length(self, context: Sequence[int]) -> int:
        """Return the length of the longest end of context that something was seen to follow."""
        for length in range(min(self.order - 1, len(context)), 0, -1):
            history = tuple(context[len(context) - length :])
            if any((*history, w) in self.counts for w in range(self.vocab_size)):
                return length
        return 0

    def _discount(self, length: int, count: int) -> float:
        return 0.0 if count == 0 else self.discounts[length][min(count, 3) - 1]


def _discounts(counts: list[int], discounting: str) -> tuple[float, float, float]:
    n1, n2, n3, n4 = (counts.count(j) for j in (1, 2, 3, 4))
    if discounting == "absolute":
        if n1 == 0 or n2 == 0:
            return 0.5, 0.5, 0.5
        d = n1 / (n1 + 2 * n2)
        return d, d, d
    if 0 in (n1, n2, n3, n4):
        return 0.5, 1.0, 1.5
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if d1 > 0 and d2 > 0 and d3 > 0 else (0.5, 1.0, 1.5)

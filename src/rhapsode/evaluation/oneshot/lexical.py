"""Exact search by words: BM25 over an index that grows one text at a time. Torch-free."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# letters and digits of any script, with inner apostrophes and hyphens split.
_WORD = re.compile(r"[^\W_]+")
_K1, _B = 1.2, 0.75


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case.

    >>> words_of("It's a Zorb-ball!")
    ['it', 's', 'a', 'zorb', 'ball']
    """
    return _WORD.findall(text.lower())


def char_ngrams(words: Sequence[str], sizes: Sequence[int] = (3, 4, 5)) -> list[str]:
    """Return the character n-grams of every word between its marked ends, so that inflections share most of theirs.

    >>> char_ngrams(["ox"], [3])
    ['<ox', 'ox>']
    """
    grams = []
    for word in words:
        marked = f"<{word}>"
        grams += [marked[i : i + n] for n in sizes for i in range(len(marked) - n + 1)]
    return grams


class LexicalIndex:
    """BM25 (Robertson and Zaragoza 2009) over documents of terms; adding is O(terms), a search O(postings)."""

    def __init__(self, k1: float = _K1, b: float = _B) -> None:
        self.k1, self.b = k1, b
        self._postings: dict[str, tuple[list[int], list[int]]] = {}
        self._lengths: list[int] = []
        # postings as arrays, made when a term is first searched for and dropped when it is added to.
        self._arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._norms: Float[np.ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, terms: Sequence[str]) -> int:
        """Add a document and return its number."""
        number = len(self._lengths)
        for term, count in Counter(terms).items():
            documents, counts = self._postings.setdefault(term, ([], []))
            documents.append(number)
            counts.append(count)
            self._arrays.pop(term, None)
        self._lengths.append(len(terms))
        self._norms = None
        return number

    def idf(self, term: str) -> float:
        """log(1 + (N - n + 1/2) / (n + 1/2)) for n documents of N with the term."""
        found = len(self._postings[term][0]) if term in self._postings else 0
        return float(np.log1p((len(self) - found + 0.5) / (found + 0.5)))

    def scores(self, terms: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Return the BM25 score of every document; a term given twice counts twice."""
        lengths = np.asarray(self._lengths, dtype=np.float64)
        total = np.zeros(len(lengths))
        damping = self.k1 * (1 - self.b + self.b * lengths / max(lengths.mean(), 1.0)) if len(lengths) else lengths
        for term, times in Counter(terms).items():
            if term in self._postings:
                documents, counts = self._array(term)
                gain = counts * (self.k1 + 1) / (counts + damping[documents])
                total[documents] += times * self.idf(term) * gain
        return total

    def cosines(self, terms: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Return the cosine of tf idf vectors with every document, 0 for no common term.

        The first call after an `add` goes through all documents.
        """
        if self._norms is None:
            squares = np.zeros(len(self))
            for term in self._postings:
                documents, counts = self._array(term)
                squares[documents] += (counts * self.idf(term)) ** 2
            self._norms = np.sqrt(np.maximum(squares, 1e-12))
        total, square = np.zeros(len(self)), 0.0
        for term, times in Counter(terms).items():
            weight = times * self.idf(term)
            square += weight**2
            if term in self._postings:
                documents, counts = self._array(term)
                total[documents] += weight * counts * self.idf(term)
        return np.asarray(total / self._norms / max(square, 1e-12) ** 0.5)

    def _array(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        if term not in self._arrays:
            documents, counts = self._postings[term]
            self._arrays[term] = np.array(documents), np.array(counts, dtype=np.float64)
        return self._arrays[term]

    def coverage(self, terms: Sequence[str], document: int) -> float:
        """Return which share of the terms' idf a document holds, in [0, 1]; 0 for no terms.

        A rare term that the document lacks costs most: an untaught name in a familiar sentence scores low.
        """
        weights = {term: self.idf(term) for term in set(terms)}
        held = sum(w for term, w in weights.items() if term in self._postings and document in self._postings[term][0])
        total = sum(weights.values())
        return held / total if total else 0.0

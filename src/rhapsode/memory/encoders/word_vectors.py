"""Word vectors from counts: positive pointwise mutual information, cut to a few dimensions.

    PPMI(w, c) = max(0, ln(n(w, c) n / (n(w) n_s(c)))),    n_s(c) = n(c)^s scaled to the same sum
    W = U sqrt(S)    where PPMI = U S V^T to the first M dimensions

It is what skip-gram factors implicitly (Levy and Goldberg 2014), with the smoothing s of Levy, Goldberg and Dagan 2015.
The decomposition is randomised (Halko, Martinsson and Tropp 2011, arXiv:0909.4061).

Shape letters: N words of text, V words with a vector, C context words, M width.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from rhapsode.memory.encoders.config import StaticEncoderConfig
from rhapsode.memory.encoders.words import split_words

_POWER_ITERATIONS = 2
_OVERSAMPLING = 16
_BLOCK_ROWS = 2_048
_NO_WORD = -1


@dataclass(frozen=True)
class CountedText:
    """The words of a text: the most frequent ones first, and the text as their numbers.

    Attributes:
        ids: int32 (N,); -1 for words without a number, and `window` times between texts.
        counts: int64 (V,), of the words that have a number.
        total: number of all words.
    """

    words: list[str]
    ids: Int32[np.ndarray, " N"]
    counts: Int64[np.ndarray, " V"]
    total: int


def count_words(texts: Iterable[str], config: StaticEncoderConfig) -> CountedText:
    """Read up to `max_chars` characters and number the words. Ties in frequency are ordered by spelling."""
    split = [split_words(text) for text in _head(texts, config.max_chars)]
    counter: Counter[str] = Counter()
    for words in split:
        counter.update(words)
    frequent = sorted(
        (word for word, count in counter.items() if count >= config.min_count), key=lambda word: (-counter[word], word)
    )[: config.max_words]
    numbers = {word: number for number, word in enumerate(frequent)}
    gap = [_NO_WORD] * config.window
    ids: list[int] = []
    for words in split:
        ids += [numbers.get(word, _NO_WORD) for word in words]
        ids += gap
    counts = np.array([counter[word] for word in frequent], dtype=np.int64)
    return CountedText(frequent, np.array(ids, dtype=np.int32), counts, counter.total())


def train_word_vectors(text: CountedText, config: StaticEncoderConfig) -> Float32[np.ndarray, "V M"]:
    """Return a unit vector for every word; a word without informative neighbours gets zeros.

    Where the text has fewer than M independent directions the last places are zero. Cost O(N window) to count and
    O(V C M) for the decomposition; memory about 24 bytes for each different pair of neighbours.
    """
    num_words = len(text.words)
    num_contexts = min(config.num_contexts, num_words)
    vectors = np.zeros((num_words, config.width), dtype=np.float32)
    rank = min(config.width, num_contexts)
    if rank == 0:
        return vectors
    pairs, counts = _count_pairs(text.ids, num_contexts, config.window)
    if len(pairs) == 0:
        return vectors
    rows, columns = np.divmod(pairs, num_contexts)
    values = _mutual_information(rows, columns, counts, config.smoothing)
    left, strengths = _decompose(_Sparse(rows, columns, values, num_words, num_contexts), rank, config.seed)
    vectors[:, :rank] = left * np.sqrt(strengths)
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    unit: Float32[np.ndarray, "V M"] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    return unit


def _head(texts: Iterable[str], max_chars: int) -> Iterator[str]:
    left = max_chars
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _count_pairs(
    ids: Int32[np.ndarray, " N"], num_contexts: int, window: int
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return word * C + context for every pair that occurs within `window` words, sorted, and how often."""
    wide = ids.astype(np.int64)
    keys = []
    for distance in range(1, window + 1):
        before, after = wide[:-distance], wide[distance:]
        for word, context in ((before, after), (after, before)):
            wanted = (word >= 0) & (context >= 0) & (context < num_contexts)
            keys.append(word[wanted] * num_contexts + context[wanted])
    found = np.concatenate(keys)
    found.sort()
    pairs, counts = np.unique(found, return_counts=True)
    return pairs, counts


def _mutual_information(
    rows: Int64[np.ndarray, " P"], columns: Int64[np.ndarray, " P"], counts: Int64[np.ndarray, " P"], smoothing: float
) -> Float32[np.ndarray, " P"]:
    of_row = np.bincount(rows, weights=counts)
    of_column = np.bincount(columns, weights=counts) ** smoothing
    share = of_column / of_column.sum()
    information = np.log(counts / (of_row[rows] * share[columns]))
    positive: Float32[np.ndarray, " P"] = np.maximum(information, 0.0).astype(np.float32)
    return positive


@dataclass(frozen=True)
class _Sparse:
    """A matrix by its entries, sorted by row; multiplied in dense blocks, because numpy has no sparse product."""

    rows: Int64[np.ndarray, " P"]
    columns: Int64[np.ndarray, " P"]
    values: Float32[np.ndarray, " P"]
    num_rows: int
    num_columns: int

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        starts = np.arange(0, self.num_rows, _BLOCK_ROWS)
        edges = np.searchsorted(self.rows, [*starts, self.num_rows])
        for number, start in enumerate(starts.tolist()):
            stop = min(start + _BLOCK_ROWS, self.num_rows)
            inside = slice(edges[number], edges[number + 1])
            block = np.zeros((stop - start, self.num_columns), dtype=np.float32)
            block[self.rows[inside] - start, self.columns[inside]] = self.values[inside]
            yield slice(start, stop), block

    def times(self, right: np.ndarray) -> np.ndarray:
        """Return A right."""
        product = np.empty((self.num_rows, right.shape[1]), dtype=np.float32)
        for rows, block in self.blocks():
            product[rows] = block @ right
        return product

    def gram_times(self, right: np.ndarray) -> np.ndarray:
        """Return A^T A right, in one pass over the blocks."""
        product = np.zeros((self.num_columns, right.shape[1]), dtype=np.float32)
        for _, block in self.blocks():
            product += block.T @ (block @ right)
        return product


def _decompose(matrix: _Sparse, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors (V, rank) and singular values (rank,) of the best approximation found."""
    size = min(rank + _OVERSAMPLING, matrix.num_columns)
    basis = np.random.default_rng(seed).standard_normal((matrix.num_columns, size)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(matrix.gram_times(basis))[0].astype(np.float32)
    # A Q = U S V^T with Q orthonormal: the left side is that of A, the values are its values.
    product = matrix.times(basis)
    values, rotation = np.linalg.eigh((product.T @ product).astype(np.float64))
    order = np.argsort(values)[::-1][:rank]
    strengths = np.sqrt(np.maximum(values[order], 0.0))
    kept = strengths > 1e-4 * max(float(strengths[0]), 1e-30)
    left = np.where(kept, (product @ rotation[:, order]) / np.where(kept, strengths, 1.0), 0.0)
    return left.astype(np.float32), np.where(kept, strengths, 0.0).astype(np.float32)

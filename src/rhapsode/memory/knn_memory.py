"""A memory of the model's own vectors: what followed where the model was in a similar state (kNN-LM).

For a query q and its k nearest stored vectors v_i, followed by ids y_i, with squared distances d_i = |q - v_i|^2,

    p(w) = (sum over y_i = w of exp(-(d_i - d_1) / t) + a / C) / (sum over i of exp(-(d_i - d_1) / t) + a)

Khandelwal et al. 2020, "Generalization through memorization: nearest neighbor language models" (arXiv 1911.00172); over
the text just read, the neural cache of Grave et al. 2017 (arXiv 1612.04426). We add `a`, so that every id keeps a
probability above 0, and search rows exactly. Their vectors are float32, 4 D + 4 bytes a token.

Shape letters: N ids, C vocabulary, D width, Q queries, K neighbours.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer

from rhapsode.errors import StateError, UserError
from rhapsode.memory.knn_search import KNNBase, Neighbours, earlier, merge, nearest
from rhapsode.memory.ngram_counts import check_ids, check_vocab_size
from rhapsode.memory.token_contracts import MAX_MATCH_LENGTH, TokenPrediction, TokenPredictions, TokenScores

# queries searched together: within such a stretch every id may still see those just before it.
_BLOCK = 1024
_ROOM = 1024
# a nearest neighbour at this part of the temperature or less counts as at distance 0.
_LEVELS_FROM = 8.0
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class KNNSettings:
    """How neighbours become a distribution."""

    num_neighbours: int = 128
    temperature: float = 20.0
    """Of squared distances; fit it on calibration text."""
    prior: float = 0.5
    """Weight of the uniform distribution, in units of the nearest neighbour."""


KNNState = Float32[np.ndarray, " D"] | None


class KNNMemory:
    """See `TokenMemory` for the contract. A state is the model's last vector, or None where there is none yet.

    `match_length` says how near the nearest neighbour is: 15 at distance 0, 2 less for each doubling, 1 at the
    farthest; 0 if there is none. `count` is the sum of the weights, rounded: how many neighbours are as near as it.
    """

    needs_hidden = True

    def __init__(
        self, vocab_size: int, dim: int, settings: KNNSettings | None = None, base: KNNBase | None = None
    ) -> None:
        """Start without rows, and on vectors that no row changes if there is a base.

        Raises:
            UserError: if a value is out of range.
        """
        check_vocab_size(vocab_size)
        settings = KNNSettings() if settings is None else settings
        if dim < 1:
            raise UserError(f"dim must be at least 1; got {dim}.")
        if settings.num_neighbours < 1:
            raise UserError(f"knn.num_neighbours must be at least 1; got {settings.num_neighbours}.")
        if not (settings.temperature > 0 and settings.prior > 0):
            raise UserError(
                f"knn.temperature and knn.prior must be above 0; got {settings.temperature} and {settings.prior}."
            )
        if base is not None and base.dim != dim:
            raise UserError(f"dim must be that of the base, {base.dim}; got {dim}.")
        self.vocab_size = vocab_size
        self.dim = dim
        self.base = base
        self.settings = settings
        self._vectors = np.empty((0, dim), dtype=np.float32)
        self._followers = np.empty(0, dtype=np.int32)
        # items of each row, which lie one behind the other in the order of the rows' numbers.
        self._sizes: dict[int, int] = {}
        self._used = 0
        self._changes = 0

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Numbers of the live rows, ascending."""
        return tuple(self._sizes)

    @property
    def size_bytes(self) -> int:
        """Bytes of vectors and ids, unused room included, and of the base."""
        base = 0 if self.base is None else self.base.size_bytes
        return self._vectors.nbytes + self._followers.nbytes + base

    @property
    def num_items(self) -> int:
        """Number of stored vectors."""
        return self._used

    def start(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> KNNState:
        """Return the state after `ids`.

        Raises:
            UserError: if the vectors are missing or of another shape.
        """
        if len(ids) == 0:
            return None
        last: Float32[np.ndarray, " D"] = self._checked(hidden, len(ids))[-1]
        return last

    def advance(self, state: KNNState, token_id: int, hidden: Float[np.ndarray, " D"] | None = None) -> KNNState:
        """Return the state after one more id. Errors as of `start`."""
        last: Float32[np.ndarray, " D"] = self._checked(None if hidden is None else hidden[None], 1)[0]
        return last

    def predict(self, state: KNNState) -> TokenPrediction:
        """Return the distribution after `state`. Cost O(N D)."""
        if state is None:
            return TokenPrediction(np.full(self.vocab_size, -np.log(self.vocab_size)), 0, 0)
        log_probs, match_lengths, counts = self._distribute(self._search(state[None]))
        return TokenPrediction(log_probs[0], int(match_lengths[0]), int(counts[0]))

    def learn(
        self, row_id: int, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None
    ) -> None:
        """Store every id with the vector before it; the first has none. Cost O(N D), and moves rows of higher numbers.

        Raises:
            UserError: if the number is taken, an id is outside the vocabulary, or vectors are missing or not finite.
        """
        check_ids(ids, self.vocab_size)
        self._check_free(row_id)
        vectors = self._checked(hidden, len(ids))
        self._insert(row_id, vectors[:-1], ids[1:])
        self._changes += 1

    def forget(self, row_id: int) -> None:
        """Remove a row; its bytes are overwritten. Cost O(N D) for all rows of higher numbers.

        Raises:
            UserError: if there is no such row.
        """
        if row_id not in self._sizes:
            raise UserError(f"row must be one that the memory holds; got {row_id}.")
        begin = self._begin(row_id)
        size = self._sizes.pop(row_id)
        for array in (self._vectors, self._followers):
            array[begin : self._used - size] = array[begin + size : self._used]
            array[self._used - size : self._used] = 0
        self._used -= size
        self._changes += 1

    def reader(self, *, learn_as: int | None = None) -> "KNNReader":
        """Return a reader at the start of a text; see `TokenMemory`.

        Raises:
            UserError: if the number is taken.
        """
        return KNNReader(self, learn_as)

    def score(
        self,
        ids: Integer[np.ndarray, " N"],
        hidden: Float[np.ndarray, "N D"] | None = None,
        *,
        learn_as: int | None = None,
    ) -> TokenScores:
        """Score every id after those before it; see `TokenMemory`. Cost O(N S D) with S items stored.

        Raises:
            UserError: as `learn`.
        """
        check_ids(ids, self.vocab_size)
        vectors = self._checked(hidden, len(ids))
        reader = self.reader(learn_as=learn_as)
        parts = [reader.read(ids[:1])] if len(ids) else []
        for begin in range(1, len(ids), _BLOCK):
            end = min(begin + _BLOCK, len(ids))
            parts.append(reader.read(ids[begin:end], vectors[begin - 1 : end - 1]))
        log_probs = [np.empty(0)]
        begin = 0
        for part in parts:
            chosen = ids[begin : begin + len(part.counts)].astype(np.int64)
            log_probs.append(part.log_probabilities[np.arange(len(chosen)), chosen].astype(np.float64))
            begin += len(chosen)
        none = np.empty(0, dtype=np.int64)
        return TokenScores(
            np.concatenate(log_probs),
            np.concatenate([none, *(part.match_lengths for part in parts)]),
            np.concatenate([none, *(part.counts for part in parts)]),
        )

    def _checked(self, hidden: np.ndarray | None, length: int) -> Float32[np.ndarray, "N D"]:
        if hidden is None:
            raise UserError("hidden must be given: a nearest-neighbour memory reads the model's vectors, not the ids.")
        if hidden.shape != (length, self.dim):
            raise UserError(f"hidden must have shape ({length}, {self.dim}); got {hidden.shape}.")
        vectors = np.ascontiguousarray(hidden, dtype=np.float32)
        if not bool(np.isfinite(vectors).all()):
            raise UserError("hidden must be finite; got NaN or infinity. Check the model.")
        return vectors

    def _check_free(self, row_id: int | None) -> None:
        if row_id in self._sizes:
            raise UserError(f"row must have a number of its own; {row_id} is taken. Forget that row first.")

    def _begin(self, row_id: int) -> int:
        return sum(size for number, size in self._sizes.items() if number < row_id)

    def _insert(self, row_id: int, vectors: np.ndarray, followers: np.ndarray) -> None:
        """Put items at the end of a row, new or not, so that rows stay in the order of their numbers."""
        at = self._begin(row_id) + self._sizes.get(row_id, 0)
        size = len(followers)
        if self._used + size > len(self._followers):
            room = self._used + size + self._used // 2 + _ROOM
            # what is not used yet is zero, never what other rows left behind.
            larger = np.zeros((room, self.dim), dtype=np.float32), np.zeros(room, dtype=np.int32)
            larger[0][: self._used], larger[1][: self._used] = (
                self._vectors[: self._used],
                self._followers[: self._used],
            )
            self._vectors, self._followers = larger
        for array, items in ((self._vectors, vectors), (self._followers, followers)):
            array[at + size : self._used + size] = array[at : self._used].copy()
            array[at : at + size] = items
        is_new = row_id not in self._sizes
        self._sizes[row_id] = self._sizes.get(row_id, 0) + size
        self._used += size
        if is_new:
            self._sizes = dict(sorted(self._sizes.items()))

    def _search(self, queries: Float32[np.ndarray, "Q D"]) -> Neighbours:
        """Return the nearest of the base and of the rows."""
        found = []
        if self.base is not None:
            found.append(self.base.search(queries, self.settings.num_neighbours))
        if self._used:
            found.append(
                nearest(
                    queries, self._vectors[: self._used], self._followers[: self._used], self.settings.num_neighbours
                )
            )
        return merge(found, len(queries), self.settings.num_neighbours)

    def _distribute(self, found: Neighbours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return log-probabilities float64 (Q, C), match lengths and counts."""
        num_queries = len(found.distances)
        if found.distances.shape[1] == 0:
            none = np.zeros(num_queries, dtype=np.int64)
            return np.full((num_queries, self.vocab_size), -np.log(self.vocab_size)), none, none
        temperature, prior = self.settings.temperature, self.settings.prior
        distances = found.distances.astype(np.float64)
        first = distances.min(axis=1)
        known = np.isfinite(first)
        weights = np.exp(-(distances - np.where(known, first, 0.0)[:, None]) / temperature)
        rows = np.arange(num_queries)[:, None] * self.vocab_size
        mass = np.bincount(
            (rows + found.token_ids).ravel(), weights=weights.ravel(), minlength=num_queries * self.vocab_size
        ).reshape(num_queries, self.vocab_size)
        totals = weights.sum(axis=1)
        probabilities = (mass + prior / self.vocab_size) / (totals + prior)[:, None]
        steps = np.floor(2 * np.log2(1 + _LEVELS_FROM * np.where(known, first, 0.0) / temperature))
        levels = np.clip(MAX_MATCH_LENGTH - steps, 1, MAX_MATCH_LENGTH).astype(np.int64)
        return (
            np.log(probabilities),
            np.where(known, levels, 0),
            np.where(known, np.rint(totals), 0).astype(np.int64),
        )


class KNNReader:
    """Reads a text beside a model; see `TokenReader`."""

    def __init__(self, memory: KNNMemory, learn_as: int | None) -> None:
        """Use `KNNMemory.reader`."""
        self._memory = memory
        self._learn_as = learn_as
        self._is_first = True
        if learn_as is not None:
            memory._check_free(learn_as)
            memory._insert(learn_as, np.empty((0, memory.dim), dtype=np.float32), np.empty(0, dtype=np.int32))
            memory._changes += 1
        self._changes = memory._changes

    def read(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> TokenPredictions:
        """Predict each id, then learn it if the reader learns. Cost O(N S D) with S items stored, and 4 N C bytes.

        Only the first id of a text may come without a vector before it: nothing is known of it.

        Raises:
            UserError: if an id is outside the vocabulary, or the vectors are missing or not finite; nothing is learnt.
            StateError: if the memory was changed by others since the last call.
        """
        memory = self._memory
        check_ids(ids, memory.vocab_size)
        if memory._changes != self._changes:
            raise StateError("the memory must not change while it is read; rows came or went. Open a new reader.")
        if hidden is None and self._is_first and len(ids) == 1:
            self._is_first = False
            unknown = np.full((1, memory.vocab_size), -np.log(memory.vocab_size), dtype=np.float32)
            return TokenPredictions(unknown, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
        vectors = memory._checked(hidden, len(ids))
        self._is_first = self._is_first and len(ids) == 0
        followers = ids.astype(np.int32)
        parts = []
        for begin in range(0, len(ids), _BLOCK):
            stretch = slice(begin, begin + _BLOCK)
            parts.append(memory._distribute(self._look(vectors[stretch], followers[stretch])))
            if self._learn_as is not None:
                memory._insert(self._learn_as, vectors[stretch], followers[stretch])
        if self._learn_as is not None:
            memory._changes = self._changes = self._changes + 1
        empty = (np.empty((0, memory.vocab_size)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        log_probs, match_lengths, counts = (np.concatenate(columns) for columns in zip(empty, *parts, strict=True))
        return TokenPredictions(log_probs.astype(np.float32), match_lengths, counts)

    def _look(self, vectors: Float32[np.ndarray, "Q D"], followers: Int32[np.ndarray, " Q"]) -> Neighbours:
        """Search what is stored and, if the reader learns, what comes earlier in this stretch."""
        found = self._memory._search(vectors)
        if self._learn_as is None:
            return found
        return merge([found, earlier(vectors, followers)], len(vectors), self._memory.settings.num_neighbours)


def fit_temperature(
    memory: KNNMemory,
    ids: Integer[np.ndarray, " N"],
    hidden: Float[np.ndarray, "N D"],
    model: Float[np.ndarray, " N"],
    *,
    learn_as: int | None = None,
) -> KNNSettings:
    """Find the temperature whose mixture with the model, at the best fixed weight, predicts calibration text best.

    Args:
        hidden: the vectors that each of `ids` is predicted from.
        model: the model's log-probability of each id.
        learn_as: a row number that is free, if the text is to be learnt as it is read; it is forgotten again.

    Returns:
        the memory's settings with that temperature, a power of two times the middle distance of the nearest. Cost
        O(N S D) for the search, done once.

    Raises:
        UserError: if nothing is found near any id, or the values are refused as by `learn`.
    """
    check_ids(ids, memory.vocab_size)
    vectors, reader = memory._checked(hidden, len(ids)), memory.reader(learn_as=learn_as)
    followers = ids.astype(np.int32)
    found = []
    for begin in range(0, len(ids), _BLOCK):
        stretch = slice(begin, begin + _BLOCK)
        found.append((reader._look(vectors[stretch], followers[stretch]), ids[stretch], model[stretch]))
        if learn_as is not None:
            memory._insert(learn_as, vectors[stretch], followers[stretch])
    if learn_as is not None:
        memory.forget(learn_as)
    nearest_distances = np.concatenate(
        [np.empty(0)] + [part.distances.min(axis=1, initial=np.inf) for part, *_ in found]
    )
    known = nearest_distances[np.isfinite(nearest_distances)]
    if len(known) == 0:
        raise UserError("calibration text must have neighbours in the memory; got none. Teach the memory first.")
    middle = max(float(np.median(known)), 1e-6)
    candidates = [replace(memory.settings, temperature=middle * 2.0**power) for power in range(-4, 5)]
    return min(candidates, key=lambda settings: _best_loss(settings, found, memory.vocab_size))


def _best_loss(settings: KNNSettings, found: list[tuple[Neighbours, np.ndarray, np.ndarray]], vocab_size: int) -> float:
    theirs, model = [], []
    for part, ids, ours in found:
        distances = part.distances.astype(np.float64)
        first = distances.min(axis=1, initial=np.inf)
        weights = np.exp(-(distances - np.where(np.isfinite(first), first, 0.0)[:, None]) / settings.temperature)
        hits = (weights * (part.token_ids == ids[:, None])).sum(axis=1)
        theirs.append((hits + settings.prior / vocab_size) / (weights.sum(axis=1) + settings.prior))
        model.append(np.exp(ours.astype(np.float64)))
    p, q = np.concatenate(theirs), np.concatenate(model)
    return min(float(-np.log(share * p + (1 - share) * q).mean()) for share in _SHARES)

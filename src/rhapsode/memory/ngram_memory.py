"""An n-gram memory: Kneser-Ney counts of a text that stays, and of rows that are learnt and forgotten one by one.

The distribution is that of `kneser_ney` over the base text and all live rows together, with the discounts of the base
held fixed. Rows keep occurrence counts at every order, from which distinct left neighbours follow, so that a row can be
taken out exactly. The start of the base text and the starts of rows are two different left neighbours.

Kneser and Ney 1995; Chen and Goodman 1998 (TR-10-98). Counting online, each id scored before it is counted, is the
cache of Kuhn and De Mori 1990, "A cache-based natural language model for speech recognition", at all orders.

Shape letters: N ids, C vocabulary.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Integer

from rhapsode.errors import StateError, UserError
from rhapsode.memory.ngram_base import NgramBase, build_ngram_base, no_ngrams
from rhapsode.memory.ngram_counts import check_ids, check_vocab_size
from rhapsode.memory.ngram_live import LiveCounts, grow, make_live_counts
from rhapsode.memory.token_contracts import TokenPrediction, TokenPredictions, TokenScores

NgramState = tuple[int, ...]
# ids counted at a time: room is made for all n-grams that they could hold.
_CHUNK = 1024
# a trie with a greater share of nodes that no row holds is built anew.
_MAX_DEAD_SHARE = 0.5


class NgramMemory:
    """See `TokenMemory` for the contract. A state is the last `order - 1` ids.

    >>> memory = NgramMemory.fit(np.frombuffer(b"abracadabra", dtype=np.uint8), vocab_size=256, order=5)
    >>> memory.learn(1, np.frombuffer(b"cabriolet", dtype=np.uint8))
    >>> state = memory.start(np.frombuffer(b"cabri", dtype=np.uint8))
    >>> chr(memory.predict(state).log_probabilities.argmax())
    'o'
    >>> memory.forget(1)
    >>> chr(memory.predict(state).log_probabilities.argmax())
    'a'
    """

    needs_hidden = False

    def __init__(self, base: NgramBase, vocab_size: int) -> None:
        """Start from counts that no row changes, which several memories may share; `fit` counts a text, `empty` none.

        Raises:
            UserError: if the base holds an id outside the vocabulary.
        """
        check_vocab_size(vocab_size)
        check_ids(base.tokens[1:], vocab_size, "the base")
        self.vocab_size = vocab_size
        self.base = base
        self._live: LiveCounts = make_live_counts(base)
        self._rows: dict[int, list[np.ndarray]] = {}
        # readers compare it, to notice that their contexts may be gone.
        self._changes = 0

    @classmethod
    def fit(cls, ids: Integer[np.ndarray, " N"], vocab_size: int, order: int) -> "NgramMemory":
        """Count a text that stays, such as the training text.

        Raises:
            UserError: if a value is out of range.
        """
        return cls(build_ngram_base(ids, vocab_size, order), vocab_size)

    @classmethod
    def empty(
        cls, vocab_size: int, order: int, discounts: Float64[np.ndarray, "order 4"] | None = None
    ) -> "NgramMemory":
        """Start from no text.

        Args:
            discounts: those of another memory's base; fixed ones if there are none.

        Raises:
            UserError: if a value is out of range.
        """
        return cls(no_ngrams(order, discounts), vocab_size)

    @property
    def order(self) -> int:
        """The longest n-gram."""
        return self.base.order

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Numbers of the live rows, ascending."""
        return tuple(sorted(self._rows))

    @property
    def size_bytes(self) -> int:
        """Bytes of the base, of the counts of rows, and of the rows themselves."""
        rows = sum(part.nbytes for row in self._rows.values() for part in row)
        return self.base.size_bytes + self._live.size_bytes + rows

    def start(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> NgramState:
        """Return the state after `ids`.

        Raises:
            UserError: if one of the last `order - 1` is outside the vocabulary.
        """
        tail = ids[max(0, len(ids) - self.order + 1) :]
        check_ids(tail, self.vocab_size, "context")
        return tuple(tail.tolist())

    def advance(self, state: NgramState, token_id: int, hidden: Float[np.ndarray, " D"] | None = None) -> NgramState:
        """Return the state after one more id.

        Raises:
            UserError: if it is outside the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise UserError(f"id must be at least 0 and below the vocabulary size {self.vocab_size}; got {token_id}.")
        longer = (*state, token_id)
        return longer[max(0, len(longer) - self.order + 1) :]

    def predict(self, state: NgramState) -> TokenPrediction:
        """Return the distribution after `state`. Cost O(order^2 + order C)."""
        from rhapsode.memory.ngram_kernels import distribute, locate

        contexts = np.empty((2, self.order), dtype=np.int64)
        length = locate(self.base, self._live, contexts[0], contexts[1], np.array(state, dtype=np.int64))
        probabilities = np.empty(self.vocab_size)
        added = np.zeros(self.vocab_size, dtype=np.int64)
        match_length, count = distribute(self.base, self._live, contexts[0], contexts[1], length, added, probabilities)
        return TokenPrediction(np.log(probabilities), match_length, count)

    def learn(
        self, row_id: int, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None
    ) -> None:
        """Count a row. Cost O(order N), and at most some 80 bytes for each n-gram that no row held before.

        Raises:
            UserError: if the number is taken or an id is outside the vocabulary; nothing is learnt then.
        """
        check_ids(ids, self.vocab_size)
        self._check_free(row_id)
        # a copy: a row must not change behind the counts' back.
        self._rows[row_id] = [ids.astype(np.int32)]
        self._count(self._rows[row_id], 1)
        self._changes += 1

    def forget(self, row_id: int) -> None:
        """Uncount a row. Cost O(order N), and now and then that of learning all rows again.

        Raises:
            UserError: if there is no such row.
        """
        if row_id not in self._rows:
            raise UserError(f"row must be one that the memory holds; got {row_id}.")
        self._count(self._rows.pop(row_id), -1)
        self._changes += 1
        if not self._rows or self._live.num_dead > _MAX_DEAD_SHARE * self._live.num_nodes:
            self._live = make_live_counts(self.base)
            for number in self.row_ids:
                self._count(self._rows[number], 1)

    def reader(self, *, learn_as: int | None = None) -> "NgramReader":
        """Return a reader at the start of a text; see `TokenMemory`.

        Raises:
            UserError: if the number is taken.
        """
        return NgramReader(self, learn_as)

    def score(
        self,
        ids: Integer[np.ndarray, " N"],
        hidden: Float[np.ndarray, "N D"] | None = None,
        *,
        learn_as: int | None = None,
    ) -> TokenScores:
        """Score every id after those before it; see `TokenMemory`. Cost O(order N).

        Raises:
            UserError: if an id is outside the vocabulary or the row number is taken; nothing is learnt then.
        """
        check_ids(ids, self.vocab_size)
        return self.reader(learn_as=learn_as).score(ids)

    def _check_free(self, row_id: int | None) -> None:
        if row_id in self._rows:
            raise UserError(f"row must have a number of its own; {row_id} is taken. Forget that row first.")

    def _count(self, row: list[np.ndarray], step: int) -> None:
        from rhapsode.memory.ngram_kernels import count_ids

        contexts = np.zeros((2, self.order), dtype=np.int64)
        length = self._begin_row(contexts, step)
        ids = np.concatenate(row)
        for begin in range(0, len(ids), _CHUNK):
            part = ids[begin : begin + _CHUNK]
            if step > 0:
                self._make_room(len(part))
            length = count_ids(self.base, self._live, contexts[0], contexts[1], length, part, step)

    def _begin_row(self, contexts: np.ndarray, step: int) -> int:
        from rhapsode.memory.ngram_kernels import begin_row

        self._make_room(1)
        return int(begin_row(self.base, self._live, contexts[0], contexts[1], self.vocab_size, step))

    def _make_room(self, num_ids: int) -> None:
        self._live = grow(self._live, num_ids * self.order)


class NgramReader:
    """Reads a text beside a model; see `TokenReader`."""

    def __init__(self, memory: NgramMemory, learn_as: int | None) -> None:
        """Use `NgramMemory.reader`."""
        self._memory = memory
        self._contexts = np.zeros((2, memory.order), dtype=np.int64)
        self._lengths = np.zeros(2, dtype=np.int64)
        self._row: list[np.ndarray] | None = None
        if learn_as is not None:
            memory._check_free(learn_as)
            self._row = memory._rows[learn_as] = [np.empty(0, dtype=np.int32)]
            self._lengths[0] = memory._begin_row(self._contexts, 1)
            memory._changes += 1
        self._changes = memory._changes

    def read(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> TokenPredictions:
        """Predict each id, then learn it if the reader learns. Cost O(N order C), and 4 N C bytes.

        Raises:
            UserError: if an id is outside the vocabulary; nothing is learnt then.
            StateError: if the memory was changed by others since the last call.
        """
        from rhapsode.memory.ngram_kernels import read_ids

        count = len(ids)
        found = TokenPredictions(
            np.empty((count, self._memory.vocab_size), dtype=np.float32),
            np.empty(count, dtype=np.int64),
            np.empty(count, dtype=np.int64),
        )
        self._run(read_ids, ids, (found.log_probabilities, found.match_lengths, found.counts))
        return found

    def score(self, ids: Integer[np.ndarray, " N"]) -> TokenScores:
        """Score each id, then learn it if the reader learns. Errors are those of `read`. Cost O(N order)."""
        from rhapsode.memory.ngram_kernels import score_ids

        count = len(ids)
        found = TokenScores(np.empty(count), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64))
        self._run(score_ids, ids, (found.log_probs, found.match_lengths, found.counts))
        return found

    def _run(self, kernel: Any, ids: np.ndarray, outputs: tuple[np.ndarray, ...]) -> None:
        memory = self._memory
        check_ids(ids, memory.vocab_size)
        if memory._changes != self._changes:
            raise StateError("the memory must not change while it is read; rows came or went. Open a new reader.")
        copied = ids.astype(np.int32)
        if self._row is not None:
            self._row.append(copied)
            memory._changes = self._changes = self._changes + 1
        for begin in range(0, len(copied), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            if self._row is not None:
                memory._make_room(len(copied[part]))
            kernel(
                memory.base,
                memory._live,
                self._contexts,
                self._lengths,
                copied[part],
                memory.vocab_size,
                self._row is not None,
                *(output[part] for output in outputs),
            )

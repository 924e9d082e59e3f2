"""The contract of a memory that predicts the next token: an n-gram memory, a nearest-neighbour memory.

Rows are what was taught. A memory is a pure function of what it was built on and of its live rows, in the order of
their numbers: it does not matter in which order they came, or what else was learnt and forgotten between them.

`hidden` is, wherever it occurs, float (N, D): the model's vector after each id, as `Decoder.hidden` returns it, from
which the model predicts the id that comes next. A memory whose `needs_hidden` is false ignores it.

Shape letters: N ids, C vocabulary, D width of the model's vectors.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer

MAX_MATCH_LENGTH = 15
"""A gate treats longer matches like this one."""


@dataclass(frozen=True)
class TokenPrediction:
    """What a memory says about the next id."""

    log_probabilities: Float64[np.ndarray, " C"]
    """Natural logarithms, all finite, whose exponentials sum to 1."""
    match_length: int
    """How well the context was found, at most the order of an n-gram; 0 if nothing speaks for the prediction."""
    count: int
    """How much was seen to follow; 0 where `match_length` says that nothing was found."""


@dataclass(frozen=True)
class TokenPredictions:
    """What a memory said about each id of a stretch of text before it came."""

    log_probabilities: Float32[np.ndarray, "N C"]
    match_lengths: Int64[np.ndarray, " N"]
    counts: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class TokenScores:
    """As `TokenPredictions`, with only the log-probability of the id that came."""

    log_probs: Float64[np.ndarray, " N"]
    match_lengths: Int64[np.ndarray, " N"]
    counts: Int64[np.ndarray, " N"]


@runtime_checkable
class TokenReader(Protocol):
    """Reads a text from front to back beside a model, a stretch at a time."""

    def read(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> TokenPredictions:
        """Predict each of `ids` from all that was read before it, and learn it then if the reader learns.

        Args:
            hidden: the vectors that each of `ids` is predicted *from*: those after the ids one before.

        Raises:
            StateError: if the memory was changed by others since the last call.
        """
        ...


StateT = TypeVar("StateT")


@runtime_checkable
class TokenMemory(Protocol[StateT]):
    """A memory that gives a distribution of the next id."""

    @property
    def vocab_size(self) -> int:
        """C."""
        ...

    @property
    def needs_hidden(self) -> bool:
        """Whether `hidden` must be given."""
        ...

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Numbers of the live rows, ascending."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays, what they were built on included."""
        ...

    def start(self, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> StateT:
        """Return the state after `ids`, which may be empty. States are values: nothing changes them."""
        ...

    def advance(self, state: StateT, token_id: int, hidden: Float[np.ndarray, " D"] | None = None) -> StateT:
        """Return the state after one more id. `state` can still be used."""
        ...

    def predict(self, state: StateT) -> TokenPrediction:
        """Return the distribution of the id after `state`, from the rows that are live now."""
        ...

    def learn(
        self, row_id: int, ids: Integer[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None
    ) -> None:
        """Add a row.

        Raises:
            UserError: if the number is taken or an id is outside the vocabulary; nothing is learnt then.
        """
        ...

    def forget(self, row_id: int) -> None:
        """Remove a row: every later prediction equals, bit for bit, that of a memory which never held it.

        Raises:
            UserError: if there is no such row.
        """
        ...

    def reader(self, *, learn_as: int | None = None) -> TokenReader:
        """Return a reader at the start of a text.

        Args:
            learn_as: number of a new row, which grows with what is read: score first, then learn. Without it nothing
                is learnt.

        Raises:
            UserError: if the number is taken.
        """
        ...

    def score(
        self,
        ids: Integer[np.ndarray, " N"],
        hidden: Float[np.ndarray, "N D"] | None = None,
        *,
        learn_as: int | None = None,
    ) -> TokenScores:
        """Return for every id what `predict` says of it after the ids before it; learn as `reader` does."""
        ...


AnyTokenMemory = TokenMemory[Any]

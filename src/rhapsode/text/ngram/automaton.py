"""Byte n-grams compiled for encoding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from rhapsode.text.ngram import kernels
from rhapsode.text.tokenizer import FIRST_LEARNT

# what a token costs; learning adds fractions of it.
UNIT = 1 << 16


class Automaton:
    """An Aho-Corasick automaton over all tokens, with the cost of each.

    Memory: states x (classes, up to a power of two) x 2 bytes (4 beyond 65,536 states), where a class is a byte that
    occurs in a token; about 3 MB for 4,096 ids and 50 MB for 32,768. Building takes about 10 ms for 4,096 ids.

    Attributes:
        num_states: of the automaton.
        num_bytes: int64 (C,), bytes of each id; 0 for the specials.
    """

    def __init__(self, tokens: Sequence[bytes], costs: Int64[np.ndarray, " C"] | None = None) -> None:
        """Compile `tokens`, the learnt ones without the 259 base ids.

        Args:
            tokens: of 2 to 31 bytes, each once; the first has id 259.
            costs: of every id, in units of 1/65,536 token; at least 1. Default: one token each.
        """
        if len(set(tokens)) != len(tokens) or any(not 2 <= len(token) <= kernels.MAX_LENGTH for token in tokens):
            raise ValueError(f"tokens of 2 to {kernels.MAX_LENGTH} bytes, each once, were expected")
        if costs is None:
            costs = np.full(FIRST_LEARNT + len(tokens), UNIT, dtype=np.int64)
        self.num_bytes = np.ones(FIRST_LEARNT + len(tokens), dtype=np.int64)
        self.num_bytes[:3] = 0
        self.num_bytes[FIRST_LEARNT:] = [len(token) for token in tokens]
        self._byte_costs = costs[FIRST_LEARNT - 256 : FIRST_LEARNT].copy()
        self._data, self._offsets = _flatten(tokens)
        self._classes, self._shift = _classes(self._data)
        order = sorted(range(len(tokens)), key=tokens.__getitem__)
        data, offsets = _flatten([tokens[i] for i in order])
        ids = np.array(order, dtype=np.int64) + FIRST_LEARNT
        codes = (costs[ids] << 32) | (ids << 5) | self.num_bytes[ids]
        shared = np.zeros(len(tokens), dtype=np.int64)
        self.num_states = int(kernels.count_states(data, offsets, shared))
        width = np.dtype(np.uint16 if self.num_states <= 1 << 16 else np.uint32)
        self._table = np.empty(self.num_states << self._shift, dtype=width)
        self._depths = np.zeros(self.num_states, dtype=np.int64)
        self._first = np.zeros(self.num_states + 1, dtype=np.int64)
        self._outs = np.empty(0, dtype=np.int64)
        for _ in range(2):
            kernels.fill_states(
                *(data, offsets, shared, codes, self._classes, self._table, self._shift),
                *(self._depths, self._first, self._outs),
            )
            self._outs = self._outs if len(self._outs) else np.empty(int(self._first[-1]), dtype=np.int64)

    def shortest(self, data: UInt8[np.ndarray, " B"]) -> Int32[np.ndarray, " N"]:
        """Return the ids of the cheapest way to write `data`.

        Of equally cheap ways, the one whose last token is longest wins, and so on from the end backwards.
        Cost: O(B) times the tokens that end at one place, 1 to 3 in text and at most 30.
        """
        ids = np.empty(len(data) + 1, dtype=np.int32)
        begin = kernels.encode_shortest(
            data, self._classes, self._table, np.uint64(self._shift), self._first, self._outs, self._byte_costs, ids
        )
        return ids[begin:]

    def greedy(self, data: UInt8[np.ndarray, " B"]) -> Int32[np.ndarray, " N"]:
        """Return the ids of the longest token at each place, from the left. Cost: O(B) times the longest token."""
        ids = np.empty(len(data), dtype=np.int32)
        count = kernels.encode_greedy(
            data, self._classes, self._table, self._shift, self._first, self._outs, self._depths, ids
        )
        return ids[:count]

    def counts_without(self) -> Int64[np.ndarray, " L"]:
        """Return how many other tokens the bytes of each learnt token take at least: what it saves, plus one."""
        fewest = np.zeros(len(self._offsets) - 1, dtype=np.int64)
        kernels.count_without(
            self._data, self._offsets, self._classes, self._table, self._shift, self._first, self._outs, fewest
        )
        return fewest


def _flatten(tokens: Sequence[bytes]) -> tuple[UInt8[np.ndarray, " B"], Int64[np.ndarray, " L1"]]:
    """Return the bytes of all tokens, joined, and where each begins and the last ends."""
    offsets = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.cumsum([len(token) for token in tokens], out=offsets[1:])
    return np.frombuffer(b"".join(tokens), dtype=np.uint8), offsets


def _classes(data: UInt8[np.ndarray, " B"]) -> tuple[UInt8[np.ndarray, "256"], int]:
    """Number the bytes that occur in tokens, frequent ones first so that they share cache lines; others are 0.

    Returns the classes and the bits that hold one.
    """
    counts = np.bincount(data, minlength=256)
    used = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    # where all 256 occur, no byte is left to be 0.
    offset = 1 if len(used) < 256 else 0
    classes = np.zeros(256, dtype=np.uint8)
    classes[used] = np.arange(len(used)) + offset
    return classes, max(1, (len(used) + offset - 1).bit_length())

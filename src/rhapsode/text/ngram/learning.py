"""Which byte n-grams are worth an id: found by exchanging tokens until the text takes few of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8

from rhapsode.text.ngram import kernels
from rhapsode.text.ngram.automaton import UNIT, Automaton
from rhapsode.text.tokenizer import FIRST_LEARNT

Data = UInt8[np.ndarray, " B"]
# longer n-grams than this save next to nothing at these sizes.
MAX_BYTES = 16
# text that one round counts; a larger vocabulary needs more, to tell rare tokens apart.
SLICE_BYTES = 2_000_000
SLICE_BYTES_PER_TOKEN = 256
# rounds that fill the vocabulary, rounds that exchange tokens, and how many of them the first one exchanges.
FILL_ROUNDS, SWAP_ROUNDS, FIRST_SWAP = 4, 40, 0.5
# a word that fills one article and occurs nowhere else is worth less than its count: n times in one chunk count as
# n ** BURST_POWER.
CHUNK_BYTES, BURST_POWER, COUNTED = 1 << 14, 0.7, 1 << 12
# slices that the last decisions hang on.
LAST_SLICES = 4
# of equally few tokens take frequent ones, so that rare ones can be told to be of no use: nats a token.
RARE_COST = 0.01


@dataclass(frozen=True)
class Counts:
    """What one round saw: of each id and of each pair of neighbours, the score, and the pair's plain count."""

    scores: Float64[np.ndarray, " C"]
    pairs: Int64[np.ndarray, "P 2"]
    pair_scores: Float64[np.ndarray, " P"]


def learn_ngrams(sample: Sequence[bytes], room: int, fixed: Sequence[bytes] = ()) -> list[bytes]:
    """Return at most `room` n-grams of 2 to 16 bytes that, with `fixed`, write text in few tokens.

    Each round writes the text with the fewest tokens, drops the tokens that save least (how often each is used, times
    how many tokens more its bytes would take without it), and adds the pairs of neighbours that occur most. So counts
    are always those of the tokens that the encoder really uses. Half of the vocabulary is exchanged at first, and
    nothing at last; dropping alone ends it. Pairs that occur once are not learnt.

    The nearest in print are PathPiece (Schmidt et al. 2024, arXiv 2402.18376), which also encodes by the shortest
    path but only drops, and SuperBPE (Liu et al. 2025, arXiv 2503.13423), whose merges also cross words.

    Args:
        sample: stretches of UTF-8; nothing is learnt across two of them. Rounds take turns on slices of 2 MB, or
            256 bytes a token.
        room: most tokens to return.
        fixed: tokens that exist already and stay.

    Returns:
        the n-grams, those that save most first.

    Cost: 44 rounds, each linear in its slice; 3 to 6 s for 2 MB on two cores.
    """
    slices = _slices(sample, max(SLICE_BYTES, SLICE_BYTES_PER_TOKEN * room))
    if room < 1 or not slices:
        return []
    learner = _Learner(fixed, room)
    turn = cycle(slices)
    for i in range(FILL_ROUNDS):
        learner.round(next(turn), room, room * (i + 1) // FILL_ROUNDS)
    for i in range(SWAP_ROUNDS):
        learner.round(next(turn), room, room + int(room * FIRST_SWAP * (1 - i / SWAP_ROUNDS)))
    # what one drop leaves takes over the work of what it dropped: a few at a time.
    last = np.concatenate(slices[:LAST_SLICES])
    # as the slices are: numba compiles once more for what may be written to.
    last.setflags(write=False)
    for _ in range(3):
        learner.round(last, room, room)
    return learner.finish(last)


class _Learner:
    """The tokens learnt so far, and what they were worth when last counted."""

    def __init__(self, fixed: Sequence[bytes], room: int) -> None:
        self.fixed = list(fixed)
        self.learnt: list[bytes] = []
        self.room = room
        self._seen: dict[bytes, float] = {}
        steps = np.arange(COUNTED + 1, dtype=np.float64) ** BURST_POWER
        self._gains = np.concatenate([[0.0], np.diff(steps)])

    def round(self, text: Data, keep: int, grow_to: int) -> None:
        """Count, drop down to the best `keep` tokens, and add pairs until there are `grow_to`."""
        tokens = [*self.fixed, *self.learnt]
        counts, savings = self._count(text, tokens)
        order = np.argsort(-savings, kind="stable")[:keep]
        self.learnt = [self.learnt[i] for i in order.tolist() if savings[i] > 0]
        self._add(tokens, counts, grow_to - len(self.learnt))

    def finish(self, text: Data) -> list[bytes]:
        """Return the tokens that the text uses, best first."""
        _, savings = self._count(text, [*self.fixed, *self.learnt])
        order = np.argsort(-savings, kind="stable")[: self.room]
        return [self.learnt[i] for i in order.tolist() if savings[i] > 0]

    def _count(self, text: Data, tokens: list[bytes]) -> tuple[Counts, Float64[np.ndarray, " L"]]:
        """Encode `text` and return the counts, and what each learnt token saves."""
        costs = np.full(FIRST_LEARNT + len(tokens), UNIT, dtype=np.int64)
        if self._seen:
            seen = np.array([self._seen.get(token, 1.0) for token in [*map(_byte, range(256)), *tokens]])
            rarity = -np.log(np.maximum(seen, 0.5) / seen.sum())
            costs[FIRST_LEARNT - 256 :] += (RARE_COST * UNIT * rarity).astype(np.int64)
        automaton = Automaton(tokens, costs)
        with ThreadPoolExecutor(2) as pool:
            ids = np.concatenate(list(pool.map(automaton.shortest, np.array_split(text, 2))))
        counts = _count_ids(ids, automaton.num_bytes, self._gains)
        spelt = [*map(_byte, range(256)), *tokens]
        self._seen = dict(zip(spelt, counts.scores[FIRST_LEARNT - 256 :].tolist(), strict=True))
        savings = counts.scores[FIRST_LEARNT:] * (automaton.counts_without() - 1)
        return counts, savings[len(self.fixed) :]

    def _add(self, tokens: list[bytes], counts: Counts, room: int) -> None:
        """Add the best pairs that are not tokens yet."""
        if room < 1:
            return
        known = {*self.fixed, *self.learnt}
        spelt = [b"", b"", b"", *map(_byte, range(256)), *tokens]
        # equal scores in the order of the ids, so that the same text gives the same tokens.
        order = np.lexsort((counts.pairs[:, 1], counts.pairs[:, 0], -counts.pair_scores))
        for first, second in counts.pairs[order].tolist():
            token = spelt[first] + spelt[second]
            if token not in known:
                known.add(token)
                self.learnt.append(token)
                room -= 1
                if room == 0:
                    return


def _count_ids(ids: Int32[np.ndarray, " N"], num_bytes: Int64[np.ndarray, " C"], gains: np.ndarray) -> Counts:
    times = np.zeros(len(num_bytes), dtype=np.int64)
    scores = np.zeros(len(num_bytes))
    kernels.count_tokens(ids, num_bytes, CHUNK_BYTES, gains, times, scores)
    places = 1 << int(2 * len(ids) + 1).bit_length()
    keys = np.full(places, -1, dtype=np.int64)
    pair_times = np.zeros(places, dtype=np.int32)
    pair_scores = np.zeros(places)
    kernels.count_pairs(ids, num_bytes, MAX_BYTES, CHUNK_BYTES, gains, keys, pair_times, pair_scores)
    found = np.flatnonzero(pair_times > 1)
    pairs = np.stack([keys[found] >> 32, keys[found] & 0xFFFFFFFF], axis=1)
    return Counts(scores, pairs, pair_scores[found])


def _slices(sample: Sequence[bytes], size: int) -> list[Data]:
    """Deal the stretches into slices of about `size` bytes; a rest smaller than half a slice joins the last.

    Between two stretches stands the byte 0xFF, which is in no UTF-8, and of which no pair is counted.
    """
    groups: list[list[bytes]] = []
    room = 0
    for piece in filter(None, sample):
        if room <= 0:
            groups.append([])
            room = size
        groups[-1].append(piece)
        room -= len(piece)
    if len(groups) > 1 and room > size // 2:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [np.frombuffer(b"\xff".join(group), dtype=np.uint8) for group in groups]


def _byte(value: int) -> bytes:
    return bytes([value])

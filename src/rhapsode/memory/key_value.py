"""A memory of keys and payloads: written without a gradient, read by similarity, forgotten by id. Torch-free.

A differentiable neural dictionary (Pritzel et al. 2017, arXiv 1703.01988) without the differentiation, with the
bookkeeping of Kaiser et al. 2017 (arXiv 1703.03129): every entry knows where it came from and how it has served.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from rhapsode.errors import StateError, UserError
from rhapsode.memory.ann import AnnIndex
from rhapsode.memory.entries import EntryTable, Payload, inverse_norms
from rhapsode.memory.policies import CONFIDENCE_STEP, Forget, KeyValueConfig, context_boosts, forgettable, utility

# an approximate search looks at this many times k candidates, since boosts may reorder them.
_ANN_SURPLUS = 4


@dataclass(frozen=True)
class Entry:
    """What is known of one entry. `uses` counts reads in which it came first, `successes` those that helped."""

    id: int
    value: Any
    name: str | None
    text: str | None
    source: str | None
    version: int
    superseded: bool
    confidence: float
    uses: int
    successes: int


@dataclass(frozen=True)
class Hits:
    """What a read found, best first: ids (B, k) int64, -1 where there is none; scores and similarities (B, k)
    float32, -inf there. They differ by the context boost."""

    ids: Int[np.ndarray, "B k"]
    scores: Float[np.ndarray, "B k"]
    similarities: Float[np.ndarray, "B k"]


@dataclass(frozen=True)
class Written:
    """What became of a write: `new`; `same` (known already, refreshed); or `newer`, which replaces `replaced`."""

    id: int
    status: Literal["new", "same", "newer"]
    replaced: int | None = None
    evicted: tuple[int, ...] = ()


class KeyValueMemory:
    """N entries: keys (N, K) float32, any payloads, and for each its name, version, source and record of use.

    Writing is O(K) amortised, forgetting O(K) an entry, exact reading O(B N K). Ids count up and are never reused.

    >>> memory = KeyValueMemory(2)
    >>> memory.write(np.array([1.0, 0.0]), "north").id, memory.write(np.array([0.0, 1.0]), "east").id
    (0, 1)
    >>> memory.entry(int(memory.read(np.array([[0.9, 0.1]]), 1).ids[0, 0])).value
    'north'
    """

    def __init__(self, key_size: int, config: KeyValueConfig | None = None) -> None:
        """Make an empty memory for keys of `key_size`.

        Raises:
            UserError: if `key_size` is below 1.
        """
        if key_size < 1:
            raise UserError(f"key_size must be at least 1; got {key_size}.")
        self.config = config or KeyValueConfig()
        self.key_size = key_size
        self.fingerprint: str | None = None
        self.evicted = 0
        self._table = EntryTable(key_size)
        self._versions: dict[str, list[int]] = {}
        self._num_superseded = 0
        self._ann: AnnIndex | None = None

    def __len__(self) -> int:
        """Return how many entries there are, replaced versions included."""
        return len(self._table)

    @property
    def ids(self) -> list[int]:
        """All ids, oldest first."""
        return list(self._table.rows)

    def write(
        self,
        key: Float[np.ndarray, " K"],
        value: Any,
        *,
        name: str | None = None,
        text: str | None = None,
        source: str | None = None,
        confidence: float = 1.0,
        fingerprint: str | None = None,
    ) -> Written:
        """Store one entry. A name that is taken makes a new version; the newest is the one that is read.

        Args:
            key: any float, finite.
            value: payload; kept as it is.
            name: what the entry is about. The same name with the same value and text only refreshes the key.
            text: what `key` was made from; a `reencodable` memory needs it.
            source: where it came from.
            confidence: in [0, 1].
            fingerprint: of the encoder that made `key`.

        Raises:
            UserError: if the key has another width or is not finite, the confidence is outside [0, 1], or the text
                is missing from a `reencodable` memory.
            StateError: if the key is from another encoder than the keys that are here.
        """
        key = self._check_keys(np.asarray(key)[None])[0]
        if not 0 <= confidence <= 1:
            raise UserError(f"confidence must be between 0 and 1; got {confidence}.")
        if text is None and self.config.keys == "reencodable":
            raise UserError("text must be given to a memory with keys = reencodable; got none.")
        self._check_fingerprint(fingerprint)
        table = self._table
        newest = self._newest(name)
        if newest is not None:
            row = table.row(newest)
            if _same(table.payloads[row].value, value) and table.payloads[row].text == text:
                self._set_key(row, key)
                table.columns["confidence"][row] = max(confidence, table.columns["confidence"][row])
                return Written(newest, "same")
        evicted = self._make_room()
        # what made room may have been the version before.
        replaced = self._newest(name)
        version = 1 if replaced is None else int(table.columns["version"][table.row(replaced)]) + 1
        identity = table.append(key, Payload(value, name, text, source), confidence, version)
        self._update_index(identity)
        if replaced is not None:
            self._hide(replaced)
        if name is not None:
            self._versions.setdefault(name, []).append(identity)
        return Written(identity, "new" if replaced is None else "newer", replaced, evicted)

    def read(self, queries: Float[np.ndarray, "B K"], k: int = 1) -> Hits:
        """Return the k best entries for every query; reading changes nothing, see `record`.

        Raises:
            UserError: if a query has another width or is not finite, or k is below 1.
        """
        if k < 1:
            raise UserError(f"k must be at least 1; got {k}.")
        queries = self._check_keys(np.asarray(queries))
        if self.config.similarity == "cosine":
            queries = queries * inverse_norms(queries)[:, None]
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        similarities = scores.copy()
        if len(self) == self._num_superseded or not len(queries):
            return Hits(ids, scores, similarities)
        if self._use_ann():
            for row, (query, candidates) in enumerate(zip(queries, self._candidates(queries, k), strict=True)):
                self._rank(query[None], candidates, (ids, scores, similarities), slice(row, row + 1))
        else:
            self._rank(queries, None, (ids, scores, similarities), slice(None))
        return Hits(ids, scores, similarities)

    def record(self, identity: int, success: bool) -> None:
        """Note that an entry came first in a read, and whether it helped; moves its confidence by a tenth.

        Raises:
            UserError: if there is no such entry.
        """
        row, columns = self._table.row(identity), self._table.columns
        columns["uses"][row] += 1
        columns["successes"][row] += success
        columns["confidence"][row] += CONFIDENCE_STEP * (success - columns["confidence"][row])

    def forget(self, ids: Sequence[int]) -> int:
        """Remove entries, all or none; a replaced version whose successor goes is read again.

        Returns:
            how many were removed; an id given twice counts once.

        Raises:
            UserError: if there is no such entry; nothing is removed.
        """
        wanted = dict.fromkeys(int(identity) for identity in ids)
        for identity in wanted:
            self._table.row(identity)
        for identity in wanted:
            self._remove(identity)
        return len(wanted)

    def forget_useless(self, policy: Forget, threshold: float) -> list[int]:
        """Remove what a policy calls useless and return the ids; see `policies.forgettable`."""
        uses = self.column("uses")
        chosen = forgettable(policy, self.utilities(), uses, threshold)
        ids = [int(identity) for identity in self.column("id")[chosen]]
        self.forget(ids)
        return ids

    def reencode(
        self, encode: Callable[[list[str]], Float[np.ndarray, "N K"]], *, fingerprint: str | None = None
    ) -> None:
        """Make every key anew from its entry's text, by the encoder as it is now.

        Raises:
            UserError: if the memory is `frozen`, or what `encode` returns has another width or is not finite; every
                key is as it was.
        """
        if self.config.keys != "reencodable":
            raise UserError("keys must be reencodable for a new encoding; got frozen. Set keys = reencodable.")
        texts = [str(payload.text) for payload in self._table.payloads]
        if texts:
            keys = self._check_keys(np.asarray(encode(texts)))
            if len(keys) != len(texts):
                raise UserError(f"an encoder must return a key for each text; got {len(keys)} for {len(texts)}.")
            self._table.keys[: len(self)] = keys
            self._table.column("scale")[:] = inverse_norms(keys)
        self.fingerprint = fingerprint
        self._ann = None

    def copy(self) -> "KeyValueMemory":
        """Return a memory with the same entries; payloads are shared. O(N K)."""
        other = copy.copy(self)
        other._table = self._table.copy()
        other._versions = {name: list(ids) for name, ids in self._versions.items()}
        other._ann = None
        return other

    def entry(self, identity: int) -> Entry:
        """Return what is known of one entry.

        Raises:
            UserError: if there is no such entry.
        """
        row = self._table.row(identity)
        payload, columns = self._table.payloads[row], self._table.columns
        return Entry(
            id=identity,
            value=payload.value,
            name=payload.name,
            text=payload.text,
            source=payload.source,
            version=int(columns["version"][row]),
            superseded=bool(columns["superseded"][row]),
            confidence=float(columns["confidence"][row]),
            uses=int(columns["uses"][row]),
            successes=int(columns["successes"][row]),
        )

    def values(self, ids: Sequence[int]) -> list[Any]:
        """Return the payloads of some entries; UserError if one is not there."""
        return [self._table.payloads[self._table.row(int(identity))].value for identity in ids]

    def versions(self, name: str) -> list[int]:
        """Return the ids that bear a name, oldest first; none if nothing does."""
        return list(self._versions.get(name, []))

    def keys(self) -> Float[np.ndarray, "N K"]:
        """Return a copy of all keys, in the order of `column`."""
        return self._table.keys[: len(self)].copy()

    def column(self, name: str) -> np.ndarray:
        """Return a copy of `id`, `confidence`, `uses`, `successes`, `version` or `superseded` of all entries."""
        return self._table.column(name).copy()

    def utilities(self) -> Float[np.ndarray, " N"]:
        """Return how useful each entry has been, in the order of `column`; see `policies.utility`."""
        table = self._table
        return utility(table.column("confidence"), table.column("uses"), table.column("successes"))

    def _newest(self, name: str | None) -> int | None:
        versions = self._versions.get(name) if name is not None else None
        return versions[-1] if versions else None

    def _check_keys(self, keys: np.ndarray) -> Float[np.ndarray, "B K"]:
        if keys.ndim != 2 or keys.shape[1] != self.key_size:
            raise UserError(f"a key must have {self.key_size} numbers; got the shape {keys.shape[1:]}.")
        keys = keys.astype(np.float32)
        if not np.isfinite(keys).all():
            raise UserError("a key must be finite; got NaN or infinity. Look at the encoder that made it.")
        return keys

    def _check_fingerprint(self, fingerprint: str | None) -> None:
        if fingerprint is None:
            return
        if self.fingerprint is None and not len(self):
            self.fingerprint = fingerprint
        if fingerprint != self.fingerprint:
            raise StateError(
                f"a key must come from the encoder {self.fingerprint} as the others here do; got {fingerprint}. "
                "Re-encode the memory first."
            )

    def _set_key(self, row: int, key: Float[np.ndarray, " K"]) -> None:
        self._table.set_key(row, key)
        self._update_index(int(self._table.columns["id"][row]))

    def _update_index(self, identity: int) -> None:
        if self._ann is not None:
            row = self._table.row(identity)
            ids = np.array([identity], dtype=np.int64)
            self._ann.remove(ids)
            self._ann.add(self._searched(slice(row, row + 1)), ids)

    def _hide(self, identity: int) -> None:
        """Take a replaced version out of every search."""
        self._table.columns["superseded"][self._table.row(identity)] = True
        self._num_superseded += 1
        if self._ann is not None:
            self._ann.remove(np.array([identity], dtype=np.int64))

    def _remove(self, identity: int) -> None:
        if self._table.columns["superseded"][self._table.row(identity)]:
            self._num_superseded -= 1
        if self._ann is not None:
            self._ann.remove(np.array([identity], dtype=np.int64))
        name = self._table.remove(identity).name
        if name is None:
            return
        versions = self._versions[name]
        was_newest = versions[-1] == identity
        versions.remove(identity)
        if not versions:
            del self._versions[name]
        elif was_newest:
            # the version before is read again.
            self._table.columns["superseded"][self._table.row(versions[-1])] = False
            self._num_superseded -= 1
            self._update_index(versions[-1])

    def _make_room(self) -> tuple[int, ...]:
        if self.config.max_entries is None or len(self) < self.config.max_entries:
            return ()
        if self.config.evict == "oldest":
            victim = next(iter(self._table.rows))
        else:
            worth = self._table.column("uses") if self.config.evict == "least_used" else self.utilities()
            # of equals, the oldest goes.
            ids = self._table.column("id")
            victim = int(ids[np.lexsort((ids, worth))[0]])
        self._remove(victim)
        self.evicted += 1
        return (victim,)

    def _searched(self, rows: slice) -> Float[np.ndarray, "N K"]:
        """The keys as similarity sees them: of unit length for the cosine."""
        keys = self._table.keys[rows]
        return keys * self._table.columns["scale"][rows, None] if self.config.similarity == "cosine" else keys

    def _use_ann(self) -> bool:
        return self.config.search == "ann" and len(self) >= self.config.ann_from

    def _candidates(self, queries: np.ndarray, k: int) -> list[np.ndarray]:
        if self._ann is None or self._ann.outgrown(len(self)):
            live = ~self._table.column("superseded")
            self._ann = AnnIndex(
                self._searched(slice(len(self)))[live], self._table.column("id")[live], self.config.ann_share
            )
        found = self._ann.search(queries, k * _ANN_SURPLUS)
        return [np.array([self._table.rows[i] for i in row if i >= 0], dtype=np.int64) for row in found.tolist()]

    def _rank(
        self,
        queries: Float[np.ndarray, "B K"],
        rows: Int[np.ndarray, " M"] | None,
        out: tuple[np.ndarray, np.ndarray, np.ndarray],
        where: slice,
    ) -> None:
        """Write the best of `rows`, or of all, into the rows `where` of ids, scores and similarities."""
        chosen: Any = slice(len(self)) if rows is None else rows
        column = {name: values[chosen] for name, values in self._table.columns.items()}
        similarities = queries @ self._table.keys[chosen].T
        if self.config.similarity == "cosine":
            similarities *= column["scale"]
        scores = similarities
        if self.config.context_boost:
            scores = scores + context_boosts(column["confidence"], column["uses"], column["id"], self._table.next_id)
        if rows is None and self._num_superseded:
            scores = np.where(column["superseded"], -np.inf, scores)
        order = _best(scores, out[0].shape[1])
        taken = np.take_along_axis(scores, order, axis=1)
        exists = np.isfinite(taken)
        width = order.shape[1]
        out[0][where, :width] = np.where(exists, column["id"][order], -1)
        out[1][where, :width] = taken
        out[2][where, :width] = np.where(exists, np.take_along_axis(similarities, order, axis=1), -np.inf)


def _best(scores: Float[np.ndarray, "B N"], k: int) -> Int[np.ndarray, "B k"]:
    """The columns of the k highest scores of each row, best first. O(B N)."""
    if k < scores.shape[1]:
        some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        some = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    found: np.ndarray = np.take_along_axis(some, order, axis=1)
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)

"""What is compared on the honest task: controls that train nothing, and our memory. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from rhapsode.evaluation.oneshot.lexical import LexicalIndex, words_of
from rhapsode.evaluation.oneshot.matcher import Ensemble, WordVectors, unit
from rhapsode.evaluation.oneshot.parts import PartGuesser
from rhapsode.evaluation.oneshot.wordnet import inflections
from rhapsode.evaluation.oneshot.wordnet_task import Entry, Query
from rhapsode.memory.key_value import KeyValueMemory
from rhapsode.memory.policies import KeyValueConfig

_NEWTON_STEPS = 25
_RIDGE = 1e-3
_CHUNK = 256


@runtime_checkable
class Matching(Protocol):
    """Is taught entries, then scores queries against every entry in the order they came."""

    def teach(self, entries: Sequence[Entry]) -> None:
        """Learn entries; called again, it learns more."""
        ...

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Return how well every entry fits every query; higher is better."""
        ...


class Majority:
    """Every word came once, so that the most frequent one is any of them: chance."""

    def __init__(self) -> None:
        self._number = 0

    def teach(self, entries: Sequence[Entry]) -> None:
        """Count."""
        self._number += len(entries)

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Return equal scores."""
        return np.zeros((len(queries), self._number), dtype=np.float32)


class Lexical:
    """BM25, or the cosine of TF-IDF, over plain words."""

    def __init__(self, kind: str) -> None:
        self._index = LexicalIndex()
        self._kind = kind

    def teach(self, entries: Sequence[Entry]) -> None:
        """Index every entry."""
        for entry in entries:
            self._index.add(words_of(entry.plain))

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Search with the plain words of every query."""
        search = self._index.scores if self._kind == "bm25" else self._index.cosines
        return np.stack([search(words_of(query.plain)).astype(np.float32) for query in queries])


class NearestVector:
    """The nearest entry by the cosine of vectors from a fixed encoder of plain texts."""

    def __init__(self, encode: Callable[[list[str]], Float[np.ndarray, "N D"]]) -> None:
        self._encode = encode
        self._keys: list[Float[np.ndarray, "N D"]] = []

    def teach(self, entries: Sequence[Entry]) -> None:
        """Encode every entry."""
        self._keys.append(unit(self._encode([entry.plain for entry in entries])))

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Encode every query."""
        found = unit(self._encode([query.plain for query in queries])) @ np.concatenate(self._keys).T
        return np.asarray(found, dtype=np.float32)


def random_encoder(width: int, seed: int) -> Callable[[list[str]], Float[np.ndarray, "N D"]]:
    """Return an encoder by random word vectors, summed."""
    random = np.random.default_rng(seed)
    vectors: dict[str, Float[np.ndarray, " D"]] = {}

    def encode(texts: list[str]) -> Float[np.ndarray, "N D"]:
        rows = np.zeros((len(texts), width))
        for row, text in zip(rows, texts, strict=True):
            for word in words_of(text):
                if word not in vectors:
                    vectors[word] = random.standard_normal(width)
                row += vectors[word]
        return rows

    return encode


@dataclass(frozen=True)
class Encoders:
    """What our memory knows before it is taught anything: all learnt from the corpus."""

    matcher: Ensemble
    vectors: WordVectors
    parts: PartGuesser


class WordMemory:
    """Ours: a key-value memory of matcher keys, an exact word index, and an index of names by all their forms.

    A score is a weighted sum of six features, each a plain search: the matcher's, the cosine of counted vectors,
    BM25, how well the parts of speech agree, and whether the word shown is the name itself, or a form of it.
    `fit_weights` finds the weights on words that are not tested. A write needs no gradient and costs
    O(words + forms).
    """

    FEATURES = ("matcher", "vectors", "bm25", "part", "name", "form")

    def __init__(
        self, encoders: Encoders, irregular: Mapping[str, Sequence[str]], weights: Sequence[float] | None = None
    ) -> None:
        self._matcher, self._vectors, self._parts = encoders.matcher, encoders.vectors, encoders.parts
        self._irregular = irregular
        self.weights = tuple(weights or [0.0] * len(self.FEATURES))
        self.memory = KeyValueMemory(self._matcher.width, KeyValueConfig(similarity="dot"))
        self._counted = KeyValueMemory(self._vectors.vectors.shape[1])
        self._chances: list[Float[np.ndarray, " P"]] = []
        self._index = LexicalIndex()
        self._names: dict[tuple[str, ...], list[int]] = {}
        self._forms: dict[tuple[str, ...], list[int]] = {}

    def teach(self, entries: Sequence[Entry]) -> None:
        """Write every entry."""
        for entry in entries:
            self.write(entry)

    def write(self, entry: Entry) -> int:
        """Write one entry and return its number."""
        texts = [entry.gloss, *entry.usages]
        number = self._index.add(words_of(" ".join(texts).replace("_", " ")))
        self.memory.write(self._matcher.encode_entry(entry.gloss, entry.usages), number, source=entry.name)
        self._counted.write(self._vectors.encode([" ".join(texts)])[0], number)
        self._chances.append(self._parts.of_entry(entry.gloss, entry.usages))
        if entry.name is not None:
            self._names.setdefault(tuple(words_of(entry.name)), []).append(number)
            for form in inflections(entry.name, self._irregular):
                self._forms.setdefault(form, []).append(number)
        return number

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Return the weighted sum of all features."""
        parts = []
        for start in range(0, len(queries), _CHUNK):
            parts.append(
                np.tensordot(
                    np.array(self.weights, dtype=np.float32), self.features(queries[start : start + _CHUNK]), 1
                )
            )
        return np.concatenate(parts) if parts else np.zeros((0, len(self._index)), dtype=np.float32)

    def features(self, queries: Sequence[Query]) -> Float[np.ndarray, "F Q N"]:
        """Return every feature of every query and entry, in the order of `FEATURES`."""
        out = np.zeros((len(self.FEATURES), len(queries), len(self._index)), dtype=np.float32)
        keys = np.stack([self._matcher.encode_query(query.text) for query in queries])
        # entries are never forgotten here, so that rows of the memory are numbers of entries.
        out[0] = keys @ self.memory.keys().T
        out[1] = self._vectors.encode([query.text for query in queries]) @ self._counted.keys().T
        chances = np.stack([self._parts.of_query(query.text) for query in queries])
        out[3] = np.log(chances @ (np.stack(self._chances) / self._parts.prior).T)
        for row, query in enumerate(queries):
            out[2, row] = self._index.scores(words_of(query.text.replace("_", " ")))
            if query.word is not None:
                word = tuple(words_of(query.word))
                out[4, row, self._names.get(word, [])] = 1
                out[5, row, self._forms.get(word, [])] = 1
        return out


def fit_weights(features: Float[np.ndarray, "F Q N"], targets: Int[np.ndarray, " Q"]) -> Float[np.ndarray, " F"]:
    """Return the weights under which a softmax over the entries gives the right ones most probability.

    Newton's method on a convex loss with a small ridge; a feature that never varies gets 0.

    Args:
        targets: the right entry of every query.
    """
    rows = np.arange(len(targets))
    weights = np.zeros(len(features))
    for _ in range(_NEWTON_STEPS):
        logits = np.tensordot(weights, features, 1)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        means = np.einsum("fqn,qn->qf", features, chances)
        gradient = (features[:, rows, targets].T - means).mean(axis=0) - _RIDGE * weights
        second = np.einsum("fqn,gqn,qn->fg", features, features, chances, optimize=True) / len(targets)
        hessian = second - means.T @ means / len(targets) + _RIDGE * np.eye(len(features))
        step = np.linalg.solve(hessian, gradient)
        # a full step may leap where the loss is flat.
        weights += step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-9))
    return weights

"""What the tests of stores share: a deterministic encoder, random facts, and looking into files."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from rhapsode.memory.contracts import Hit, Item, Store
from rhapsode.memory.terms import find_terms

PLACES = "lisbon oslo quito hanoi accra lima turin osaka perth dakar".split()
THINGS = "bridge clock river garden engine library market tower harbour museum".split()


class WordEncoder:
    """Each word has a random direction; a text is the unit sum of its words, or zero without any."""

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        self.width = width
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        return f"words-{self.width}-{self.seed}"

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for number, text in enumerate(texts):
            for term in find_terms(text):
                digest = hashlib.blake2b(f"{self.seed} {term}".encode(), digest_size=8).digest()
                vectors[number] += np.random.default_rng(int.from_bytes(digest, "big")).normal(size=self.width)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

    def save(self, folder: Path) -> None:
        folder.joinpath("words.txt").write_text(self.fingerprint)


def make_facts(number: int, seed: int = 0, start: int = 0) -> list[Item]:
    """Random facts, each with a word of its own, some with metadata, in one space."""
    rng = np.random.default_rng(seed)
    facts = []
    for i in range(start, start + number):
        thing, place = THINGS[rng.integers(10)], PLACES[rng.integers(10)]
        text = f"The {thing} number{i} stands in {place} since {rng.integers(1000, 2000)}."
        metadata = {"place": place} if rng.random() < 0.5 else {}
        facts.append(Item(text, key=f"{thing} {i}", source=f"book {i % 3}", metadata=metadata))
    return facts


def answers(store: Store, queries: Sequence[str], **options: Any) -> list[list[tuple[str, float, dict[str, float]]]]:
    """What a store answers, without what may differ between two stores that hold the same rows: ids and times."""
    return [[_answer(hit) for hit in store.search(query, **options)] for query in queries]


def _answer(hit: Hit) -> tuple[str, float, dict[str, float]]:
    return hit.row.text, hit.score, dict(hit.parts)


def files_with(folder: Path, *needles: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each file below `folder` with each of the strings that it holds, letter case ignored."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes().lower()
            for needle in needles:
                if needle.lower().encode() in data:
                    yield path.name, needle

"""Stores with taught facts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from rhapsode.memory.contracts import Item
from rhapsode.memory.encoders import StaticEncoder
from rhapsode.memory.store import SQLiteStore

Teach = Callable[[Sequence[str | tuple[str, str]]], SQLiteStore]


@pytest.fixture
def teach(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teach]:
    """Return a function that opens a new store and teaches it texts, or pairs of key and text."""
    encoder = StaticEncoder.train([])
    with ExitStack() as stack:

        def make(facts: Sequence[str | tuple[str, str]]) -> SQLiteStore:
            folder: Path = tmp_path_factory.mktemp("store")
            store = stack.enter_context(SQLiteStore.open(folder, encoder))
            store.write([Item(f) if isinstance(f, str) else Item(f[1], key=f[0]) for f in facts])
            return store

        yield make

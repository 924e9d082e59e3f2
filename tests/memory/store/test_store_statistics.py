"""Counts and samples of current rows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore
from rhapsode.memory.terms import find_terms

WORDS = [f"w{i}" for i in range(12)]


def random_items(count: int, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 4)) + f" n{i}" for i in range(count)]
    keys = [f"key {i}" if rng.random() < 0.5 else None for i in range(count)]
    return [Item(text, key=key) for text, key in zip(texts, keys, strict=True)]


def plain_frequency(store: SQLiteStore, word: str) -> int:
    rows = [row for row in store.rows(space="default") if row.superseded_by is None]
    return sum(all(term in find_terms(f"{row.key or ''} {row.text}") for term in find_terms(word)) for row in rows)


def test_counts_equal_the_plain_twin_through_updates_and_forgetting(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        ids = store.write(random_items(400)).ids
        store.write([Item("w0 again", key="key 3"), Item("w1 again", key="key 4")])
        store.forget(ids[50:120])
        store.write([Item("w0", space="other")])
        words = [*WORDS, "key", "n7", "absent"]
        frequencies = store.document_frequency(words)
        assert frequencies == {word: plain_frequency(store, word) for word in words}
        assert store.count() == sum(row.superseded_by is None for row in store.rows(space="default"))
        assert store.count("other") == 1


def test_counts_behind_a_filter_equal_the_plain_twin(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        items = [replace(item, metadata={"third": n % 3, "half": n % 2}) for n, item in enumerate(random_items(300))]
        ids = store.write(items).ids
        store.write([Item("w0 again", key="key 3", metadata={"third": 1}), Item("w1 again", key="key 4")])
        store.forget(ids[50:90])
        words = [*WORDS, "key", "n7", "absent"]
        for where in ({"third": 0}, {"third": 1, "half": 0}, {"third": "1"}):
            rows = [row for row in store.rows(space="default", where=where) if row.superseded_by is None]
            held = [set(find_terms(f"{row.key or ''} {row.text}")) for row in rows]
            expected = {word: sum(word in terms for terms in held) for word in words}
            assert store.document_frequency(words, where=where) == expected
            assert store.count(where=where) == len(rows)


def test_words_of_several_terms_count_as_the_rarest(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.write([Item("room 3.14 and 14"), Item("room 14"), Item("c++ and c")])
        assert store.document_frequency(["3.14", "c++", "?!", ""]) == {"3.14": 1, "c++": 1, "?!": 0, "": 0}
        assert store.document_frequency([]) == {}


def test_a_sample_depends_on_the_rows_alone(tmp_path: Path) -> None:
    items = random_items(300)
    with SQLiteStore.open(tmp_path / "a") as one, SQLiteStore.open(tmp_path / "b") as other:
        one.write(items)
        extra = other.write(random_items(50, seed=9)).ids
        other.write(items[::-1])
        other.forget([i for i in extra if i in {row.id for row in other.rows()}])
        remaining = {(row.key, row.text) for row in other.rows()}
        kept = [row.id for row in one.rows() if (row.key, row.text) not in remaining]
        if kept:
            one.forget(kept)
        assert [(r.key, r.text) for r in one.sample(40)] == [(r.key, r.text) for r in other.sample(40)]


def test_a_sample_is_spread_and_has_no_row_twice(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.write(random_items(1000))
        rows = store.sample(200)
        assert len({row.id for row in rows}) == 200
        # halves of the ids, and keyed or not: four standard deviations of 200 draws out of 1,000.
        assert abs(sum(row.id <= 500 for row in rows) - 100) < 4 * (200 * 0.25 * 0.8) ** 0.5
        share = Counter(row.key is None for row in store.rows())[True] / 1000
        assert abs(sum(row.key is None for row in rows) - 200 * share) < 4 * (200 * 0.25 * 0.8) ** 0.5
        assert len(store.sample(5000)) == store.count()
        assert store.sample(5) == rows[:5]


def test_unknown_spaces_are_refused(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        for ask in (
            store.count,
            lambda space: store.sample(3, space),
            lambda space: store.document_frequency([], space),
        ):
            with pytest.raises(UserError, match="space must be one of default; got 'othr'"):
                ask("othr")

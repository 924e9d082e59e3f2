"""Every registered store, those of other packages included, against its contract in `memory/contracts.py`."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from rhapsode.errors import UserError
from rhapsode.memory.config import STORES
from rhapsode.memory.contracts import Encoder, Item, Store

Open = Callable[..., Any]


class LetterEncoder:
    """Random directions of letter pairs, summed."""

    fingerprint = "letters"
    width = 24

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for number, text in enumerate(texts):
            for pair in zip(text.lower(), text.lower()[1:], strict=False):
                seed = int.from_bytes(hashlib.blake2b("".join(pair).encode(), digest_size=8).digest(), "big")
                vectors[number] += np.random.default_rng(seed).normal(size=self.width)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

    def save(self, folder: Path) -> None:
        folder.joinpath("letters").touch()


@pytest.fixture(params=STORES.names())
def open_store(request: pytest.FixtureRequest) -> Open:
    opened: Open = STORES.load(request.param).open
    return opened


FACTS = [
    Item("The river Tagus flows through Lisbon.", key="tagus", source="atlas", metadata={"kind": "river"}),
    Item("The river Douro flows through Porto.", key="douro", source="atlas", metadata={"kind": "river", "km": 897}),
    Item("Lisbon has a museum of tiles.", key="museum", source="guide", metadata={"kind": "museum"}),
    Item("Ink is made of soot and gum.", source="guide"),
]


def test_it_follows_the_protocol(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert isinstance(store, Store)
        assert store.capabilities <= {"multi_process", "secure_delete", "transactions", "read_only"}
    assert isinstance(LetterEncoder(), Encoder)


def test_what_was_written_is_there_after_opening_again(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path, LetterEncoder()) as store:
        written = store.write(FACTS)
        assert len(set(written.ids)) == len(FACTS)
        assert (written.created, written.superseded) == ([True] * 4, [None] * 4)
    with open_store(tmp_path, LetterEncoder()) as store:
        for row, item in zip(store.get(written.ids), FACTS, strict=True):
            assert (row.text, row.key, row.source, row.space) == (item.text, item.key, item.source, item.space)
            assert (row.metadata, row.provenance, row.version) == (item.metadata, item.provenance, 1)
            assert (row.superseded_by, row.encoder) == (None, "letters")


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
def test_each_text_is_found_by_itself(open_store: Open, tmp_path: Path, mode: str) -> None:
    with open_store(tmp_path, LetterEncoder()) as store:
        written = store.write(FACTS)
        for row_id, item in zip(written.ids, FACTS, strict=True):
            hits = store.search(item.text, k=2, mode=mode)
            assert hits[0].row.id == row_id
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert set(hits[0].parts) == {"text": {"bm25"}, "vector": {"vector"}}.get(mode, {"bm25", "vector"})


def test_vectors_can_be_given(open_store: Open, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    with open_store(tmp_path) as store:
        written = store.write(FACTS, vectors)
        for row_id, vector in zip(written.ids, vectors, strict=True):
            (hit,) = store.search("x", k=1, vector=3 * vector, mode="vector")
            # float16 keeps 11 bits of each number.
            assert hit.row.id == row_id
            assert hit.score == pytest.approx(1, abs=1e-5)


def test_filters_are_equal_values_all_of_them(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path, LetterEncoder()) as store:
        ids = store.write(FACTS).ids
        for mode in ("text", "vector", "hybrid"):
            assert {hit.row.id for hit in store.search("river Lisbon", where={"kind": "river"}, mode=mode)} == set(
                ids[:2]
            )
            (hit,) = store.search("river Lisbon", where={"kind": "river", "km": 897}, mode=mode)
            assert hit.row.id == ids[1]
            assert store.search("river Lisbon", where={"km": "897"}, mode=mode) == []
        assert [row.id for row in store.rows(where={"kind": "museum"})] == [ids[2]]
        assert [row.id for row in store.rows(source="atlas")] == ids[:2]
        assert [row.id for row in store.rows(after_id=ids[0], limit=2)] == ids[1:3]


def test_rows_that_a_filter_leaves_out_change_no_score(open_store: Open, tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "alone", LetterEncoder()) as alone,
        open_store(tmp_path / "both", LetterEncoder()) as both,
    ):
        items = [replace(fact, metadata={"left": True}) for fact in FACTS]
        alone.write(items)
        both.write([Item(f"river museum ink {i} " + "and more " * i) for i in range(20)])
        both.write(items)
        both.write([Item("another river", metadata={"left": False}), Item("The mayor is Ana.", "mayor")])
        for mode in ("text", "vector", "hybrid"):
            for query in ("Where is the river?", "museum of ink"):
                expected = [(hit.row.text, hit.score, hit.parts) for hit in alone.search(query, mode=mode)]
                found = both.search(query, where={"left": True}, mode=mode)
                assert [(hit.row.text, hit.score, hit.parts) for hit in found] == expected
        # what was counted for a filter is counted anew when its rows have changed.
        for store in (alone, both):
            store.write([Item("a long text about a river, a museum and more ink", metadata={"left": True})])
            store.forget([store.search("Where is the river?", k=1, where={"left": True})[0].row.id])
        expected = [(hit.row.text, hit.score, hit.parts) for hit in alone.search("river museum")]
        found = both.search("river museum", where={"left": True})
        assert [(hit.row.text, hit.score, hit.parts) for hit in found] == expected


def test_spaces_never_see_each_other(open_store: Open, tmp_path: Path) -> None:
    queries = ["Where is the river?", "museum of ink"]
    with (
        open_store(tmp_path / "alone", LetterEncoder()) as alone,
        open_store(tmp_path / "both", LetterEncoder()) as both,
    ):
        alone.write(FACTS)
        both.write([Item(f"river museum ink {i}", space="other") for i in range(20)])
        both.write(FACTS)
        for query in queries:
            expected = [(hit.row.text, hit.score, hit.parts) for hit in alone.search(query)]
            assert [(hit.row.text, hit.score, hit.parts) for hit in both.search(query)] == expected
        assert {hit.row.space for hit in both.search("river", space="other")} == {"other"}


def test_teaching_a_duplicate_updates_it(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = store.write([FACTS[0]])
        again = store.write([Item(FACTS[0].text, "tagus", "map", metadata={"kind": "water"})])
        assert (again.ids, again.created, again.superseded) == (first.ids, [False], [None])
        (row,) = store.rows()
        assert (row.source, row.metadata, row.version) == ("map", {"kind": "water"}, 1)
        assert store.search("tagus", where={"kind": "river"}) == []
        assert len(store.search("tagus", where={"kind": "water"})) == 1


def test_the_newest_text_of_a_key_wins_and_the_others_are_listed(open_store: Open, tmp_path: Path) -> None:
    texts = ["The mayor is Ana.", "The mayor is Rui.", "The mayor is Eva."]
    with open_store(tmp_path, LetterEncoder()) as store:
        ids = [store.write([Item(text, key="mayor")]).ids[0] for text in texts]
        assert store.write([Item(texts[2], key="mayor")]).superseded == [None]
        for mode in ("text", "vector", "hybrid"):
            assert [hit.row.id for hit in store.search("Who is the mayor?", mode=mode)] == [ids[2]]
        assert [(row.id, row.version, row.superseded_by) for row in store.rows()] == [
            (ids[0], 1, ids[1]),
            (ids[1], 2, ids[2]),
            (ids[2], 3, None),
        ]
        # an older version taught again is the newest.
        again = store.write([Item(texts[0], key="mayor")])
        assert (again.ids, again.created, again.superseded) == ([ids[0]], [False], [ids[2]])
        assert [hit.row.text for hit in store.search("mayor")] == [texts[0]]
        assert [row.superseded_by for row in store.get(ids)] == [None, ids[2], ids[0]]


def test_forgetting_leaves_what_never_held_it(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path / "a", LetterEncoder()) as store, open_store(tmp_path / "b", LetterEncoder()) as other:
        gone = store.write([FACTS[1], Item("The river Tagus is dry.", key="tagus")]).ids
        store.write(FACTS[2:])
        newest = store.write([FACTS[0]]).ids
        store.write([Item("The river Tagus is full.", key="tagus")])
        gone.append(store.search("full")[0].row.id)
        erasure = store.forget(gone)
        assert (erasure.ids, erasure.restored) == (gone, newest)
        assert erasure.erased is not erasure.pending
        other.write([*FACTS[2:], FACTS[0]])
        for query in ("Where is the river?", "museum of ink", "Tagus"):
            for mode in ("text", "vector", "hybrid"):
                expected = [(hit.row.text, hit.score, hit.parts) for hit in other.search(query, mode=mode)]
                assert [(hit.row.text, hit.score, hit.parts) for hit in store.search(query, mode=mode)] == expected
        with pytest.raises(UserError, match=f"id must be .* got {gone[0]}"):
            store.get(gone)


def test_ids_are_never_used_again(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        last = store.write(FACTS).ids
        store.forget(last)
    with open_store(tmp_path) as store:
        assert store.write([FACTS[0]]).ids[0] > max(last)


def test_changes_tell_what_can_be_found(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        rng, live = np.random.default_rng(0), set()
        for step in range(60):
            if rng.random() < 0.7 or not live:
                store.write([Item(f"text {step}", key=f"key {rng.integers(8)}")])
            else:
                store.forget([int(rng.choice([row.id for row in store.rows()]))])
            live = {row.id for row in store.rows() if row.superseded_by is None}
        found: set[int] = set()
        for change in store.changes():
            found = found | {change.id} if change.op == "add" else found - {change.id}
        assert found == live
        assert [change.seq for change in store.changes(store.seq - 2)] == [store.seq - 1, store.seq]
        assert list(store.changes(store.seq)) == []


def test_a_write_with_a_bad_item_writes_nothing(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        if "transactions" not in store.capabilities:
            pytest.skip("not declared")
        with pytest.raises(UserError, match=r"items\[1\]\.text must hold more than white space; got ' '"):
            store.write([FACTS[0], Item(" ")])
        with pytest.raises(UserError, match="got 77"):
            store.forget([*store.write([FACTS[1]]).ids, 77])
        assert [row.text for row in store.rows()] == [FACTS[1].text]


def test_literal_text_is_matched_whatever_its_case(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.write(FACTS).ids
        store.write([Item("River in another space", space="other")])
        assert [row.id for row in store.match("RIVER", space="default")] == ids[:2]
        assert len(store.match("river")) == 3
        assert [row.id for row in store.match("guide")] == ids[2:]
        assert store.match("100%_") == []


def test_two_threads_write_and_search_at_once(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path, LetterEncoder()) as store:

        def work(name: int) -> None:
            for i in range(15):
                store.write([Item(f"worker {name} wrote number {i}")])
                assert store.search(f"worker {name} number {i}", k=1)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(store.rows())) == 45
        assert len(store.search("worker number", k=100)) == 45

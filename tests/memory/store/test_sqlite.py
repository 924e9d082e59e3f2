"""The SQLite store beyond the contract: bad input, files that are damaged, read-only or of another version."""

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import WordEncoder, answers, make_facts

from rhapsode.errors import StateError, UserError
from rhapsode.memory.config import IndexConfig, StoreConfig
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore, recover
from rhapsode.memory.store.checks import encode_json
from rhapsode.memory.store.database import FILE_NAME, free_bytes

SMALL_INDEX = StoreConfig(index=IndexConfig(flat_limit=200, lists_factor=0.5))
QUERIES = ["Where is the bridge?", "What stands in Oslo since 1500?", "number7", "harbour market clock"]


def test_two_stores_with_the_same_rows_answer_alike_whatever_came_before(tmp_path: Path) -> None:
    facts = make_facts(150)
    with (
        SQLiteStore.open(tmp_path / "a", WordEncoder()) as store,
        SQLiteStore.open(tmp_path / "b", WordEncoder()) as fresh,
    ):
        store.write(make_facts(100, seed=1, start=500))
        store.write(facts)
        store.write([Item("The market number7 is closed.", key=facts[7].key)])
        gone = [row.id for row in store.rows() if "number5" in row.text and len(row.text.split()[2]) > 8]
        gone += [row.id for row in store.rows() if "closed" in row.text]
        assert len(gone) == 101
        store.forget(gone)
        fresh.write(facts)
        for mode in ("text", "vector", "hybrid"):
            assert answers(store, QUERIES, k=20, mode=mode) == answers(fresh, QUERIES, k=20, mode=mode)
        assert store.verify() == fresh.verify() == []


@pytest.mark.parametrize(
    "query", ['"AND (', "* OR", "it's", "c++ a-b", "NEAR(x", "'; DROP TABLE rows; --", "💥", "%_\\"]
)
def test_nothing_in_a_query_is_an_operator(tmp_path: Path, query: str) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        store.write([Item("It's C++, a-b, OR x; near the table.", source=query, space=query, key=query)])
        store.write([Item("Something else")])
        assert isinstance(store.search(query), list)
        assert [row.source for row in store.rows(space=query)] == [query]
        assert len(store.match(query)) == 1


def test_unspaced_scripts_are_found_by_a_part(tmp_path: Path) -> None:
    texts = ["東京都庁は新宿にある。", "กรุงเทพมหานครเป็นเมืองหลวง", "서울에서 기차를 탔다", "北京是中国的首都"]
    with SQLiteStore.open(tmp_path) as store:
        store.write([Item(text) for text in texts])
        for query, text in (
            ("新宿", texts[0]),
            ("เมืองหลวง", texts[1]),
            ("서울", texts[2]),
            ("中国的首都在哪里", texts[3]),
        ):
            assert store.search(query)[0].row.text == text


def test_common_words_do_not_dominate(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, config=StoreConfig(common_min=10)) as store:
        store.write([Item(f"the the the of of a {i} the") for i in range(60)])
        (row_id,) = store.write([Item("Quagga, an extinct animal once of the South, which the settlers hunted")]).ids
        assert store.search("what is the name of the quagga of the")[0].row.id == row_id
        assert len(store.search("the of", k=100)) == 61


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (Item(""), "text must hold more than white space; got ''"),
        (Item(" \n"), "text must hold more than white space"),
        (Item("a\0b"), "text must not hold the character NUL; got one at character 1"),
        (Item("ab\ud800"), "text must be valid Unicode; got half of a surrogate pair at character 2"),
        (Item("é" * 600_000), "text must be at most 1,000,000 bytes long; got 1,200,000. Split it"),
        (Item("x", key=""), "key must hold more than white space"),
        (Item("x", source="\0"), "source must not hold the character NUL"),
        (Item("x", space=""), "space must hold more than white space"),
        (Item("x", metadata={"a": float("nan")}), "metadata must be JSON; got"),
        (Item("x", metadata={"a": object()}), "metadata must be JSON; got"),
        (Item("x", provenance={"a": "\ud800"}), "provenance must be valid Unicode"),
    ],
)  # fmt: skip
def test_bad_items_are_refused(tmp_path: Path, item: Item, problem: str) -> None:
    with SQLiteStore.open(tmp_path) as store:
        with pytest.raises(UserError, match=problem):
            store.write([item])
        assert list(store.rows()) == []


def test_names_of_metadata_are_strings() -> None:
    with pytest.raises(UserError, match="metadata must have strings as names; got 1"):
        encode_json({1: "a"}, "metadata")


def test_bad_searches_are_refused(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        ids = store.write(make_facts(3)).ids
        assert len(store.search("the", k=1_000)) == 3
        for k in (0, -1):
            with pytest.raises(UserError, match=f"k must be at least 1; got {k}"):
                store.search("x", k=k)
        with pytest.raises(UserError, match="query must hold more than white space"):
            store.search("  ")
        with pytest.raises(UserError, match="query must be at most 65,536 bytes long; got 70,000"):
            store.search("x" * 70_000)
        with pytest.raises(UserError, match=r"space must be one of default; got 'defualt'\. Did you mean 'default'"):
            store.search("x", space="defualt")
        with pytest.raises(UserError, match="space must be one of default; got 'nowhere'"):
            store.rows(space="nowhere")
        with pytest.raises(UserError, match="mode must be one of hybrid, text, vector; got 'txt'"):
            store.search("x", mode="txt")
        with pytest.raises(UserError, match="mode 'vector' must have an encoder or a vector"):
            store.search("x", mode="vector")
        with pytest.raises(UserError, match="id must be that of a row in memory; got 99"):
            store.get([ids[0], 99])
        with pytest.raises(UserError, match="text to match must hold more than white space"):
            store.match("")


class BrokenEncoder(WordEncoder):
    """Gives what it is told to."""

    def __init__(self, vectors: Any) -> None:
        super().__init__()
        self.vectors = vectors

    def encode(self, texts: list) -> Any:  # type: ignore[override]
        return self.vectors


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (np.full((1, 32), np.nan), "vectors must be finite; got NaN or infinity in row 0. Nothing was written"),
        (np.ones((1, 31)), "vectors must be 32 wide; got 31"),
        (np.ones((2, 32)), r"vectors must have one row a text, \(1, M\); got \(2, 32\)"),
        ([["a"] * 32], r"vectors must be numbers; got <U1"),
        ([[None] * 32], r"vectors must be numbers; got object"),
        ([[1.0], [1.0, 2.0]], r"vectors must be rows of one length; got list"),
    ],
)
def test_a_broken_encoder_writes_nothing(tmp_path: Path, vectors: Any, problem: str) -> None:
    with SQLiteStore.open(tmp_path, BrokenEncoder(vectors)) as store:
        with pytest.raises(StateError, match=f"the encoder words-32-0's {problem}"):
            store.write([Item("text")])
        assert list(store.rows()) == []


@pytest.mark.parametrize("size", [1e200, 1e308, 1e-200, 1.0])
def test_the_size_of_a_vector_does_not_matter(tmp_path: Path, size: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 32))
    with SQLiteStore.open(tmp_path, BrokenEncoder(vectors / np.abs(vectors).max() * size)) as store:
        store.write([Item("text")])
        (hit,) = store.search("x", mode="vector")
        assert hit.score == pytest.approx(1, abs=1e-3)


def test_saving_waits_for_who_changes_the_indexes(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        store.write(make_facts(3))
        done = threading.Event()
        thread = threading.Thread(target=lambda: (store._vectors.save_if_stale(), done.set()))
        with store._database.lock:
            thread.start()
            assert not done.wait(0.1)
        thread.join()
        assert done.is_set()


def test_versions_of_a_key(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        old, new = (store.write([Item(text, key="Mayor")]).ids[0] for text in ("Ana", "Rui"))
        (other,) = store.write([Item("Eva", key="Mayor", space="town")]).ids
        (none,) = store.write([Item("no key")]).ids
        assert [row.id for row in store.versions("Mayor")] == [old, new, other]
        assert [row.id for row in store.versions("Mayor", "town")] == [other]
        assert store.versions("mayor") == []
        assert [row.id for row in store.with_versions([none, new])] == [old, new, none]
        assert [row.id for row in store.restored_without([new, other, none])] == [old]
        assert store.restored_without([old]) == store.restored_without([old, new]) == []
        with pytest.raises(UserError, match="got 99"):
            store.with_versions([99])
        assert store.forget([new, other, none]).restored == [old]


def test_labels_of_earlier_times_are_found_and_imported(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "a") as store:
        for label in ("first", "second", "second", "third", "first"):
            store.write([Item("text", source=label)])
        (row,) = store.rows(source="second")
        assert (row.source, row.provenance) == ("first", {"earlier_sources": ["second", "third"]})
        store.export(tmp_path / "rows")
    with SQLiteStore.open(tmp_path / "b") as store:
        store.import_(tmp_path / "rows")
        store.write([Item("text", source="second", metadata={"a": 1}, provenance={"file": "f"})])
        for label in ("first", "second", "third"):
            (row,) = store.rows(source=label)
        assert row.provenance == {"file": "f", "earlier_sources": ["third", "first"]}
        store.write([Item("text")])
        assert next(store.rows()) == row
        assert store.verify() == []


def test_given_vectors_are_checked(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.write([Item("a")], np.ones((1, 5), dtype=np.float32))
        with pytest.raises(UserError, match="vectors must be 5 wide, as those in memory; got 6"):
            store.write([Item("b")], np.ones((1, 6), dtype=np.float32))
        with pytest.raises(UserError, match="vectors must be at least 1 wide; got 0"):
            store.write([Item("b")], np.ones((1, 0), dtype=np.float32))
        with pytest.raises(UserError, match="vector must be 5 wide; got 4"):
            store.search("a", vector=np.ones(4, dtype=np.float32))
        # a row of zeros, or none at all, is found by text only.
        store.write([Item("zero")], np.zeros((1, 5), dtype=np.float32))
        store.write([Item("none")])
        assert [hit.row.text for hit in store.search("x", vector=np.ones(5), mode="vector")] == ["a"]
        assert store.search("zero", vector=np.zeros(5))[0].row.text == "zero"
        assert store.stats().without_vector == 1
        assert store.verify() == []


def test_another_encoder_is_refused_until_all_is_encoded_again(tmp_path: Path) -> None:
    facts = make_facts(40)
    with SQLiteStore.open(tmp_path / "a", WordEncoder()) as store:
        store.write(facts)
        store.write([Item("A newer text.", key=facts[0].key)])
    other = WordEncoder(width=20, seed=5)
    with pytest.raises(
        UserError,
        match=r"encoder must be the one that made the stored vectors, words-32-0; got words-20-5\..*rebuild --reencode",
    ):
        SQLiteStore.open(tmp_path / "a", other)
    with SQLiteStore.open(tmp_path / "a") as store:
        with pytest.raises(StateError, match="Nothing was written"):
            store.reencode(BrokenEncoder(np.full((41, 32), np.inf, dtype=np.float32)))
        assert store.stats().encoder == "words-32-0"
        assert store.reencode(other) == 41
        store.forget([row.id for row in store.match("A newer text.")])
    with SQLiteStore.open(tmp_path / "a", other) as store, SQLiteStore.open(tmp_path / "b", other) as fresh:
        fresh.write(facts)
        assert answers(store, QUERIES, mode="vector") == answers(fresh, QUERIES, mode="vector")
        assert {row.encoder for row in store.rows()} == {"words-20-5"}
        assert store.verify() == []


def test_an_encoder_changed_by_another_process_is_noticed(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store, SQLiteStore.open(tmp_path) as other:
        store.write(make_facts(5))
        store.search("bridge")
        other.reencode(WordEncoder(seed=1))
        with pytest.raises(UserError, match="encoder must be the one that made the stored vectors, words-32-1"):
            store.write(make_facts(1, start=9))
        with pytest.raises(UserError, match="encoder must be the one that made the stored vectors, words-32-1"):
            store.search("bridge")


def test_a_newer_or_foreign_database_is_refused(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="has schema version 99, and this rhapsode reads up to 1"):
        SQLiteStore.open(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(StateError, match="must be a memory of rhapsode; got another SQLite database"):
        SQLiteStore.open(other)


def test_a_missing_store_is_not_made_unless_wanted(tmp_path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(UserError, match=f"memory must name a folder with a store; got .*no {FILE_NAME}. Teach"):
            SQLiteStore.open(tmp_path / "none", **options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match=r"must be writable; got: (File exists|Not a directory)"):
        SQLiteStore.open(tmp_path / "file")


def test_a_read_only_store_answers_and_refuses_to_change(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        ids = store.write(make_facts(20)).ids
        expected = answers(store, QUERIES)
        # beside a writer, and after it.
        with SQLiteStore.open(tmp_path, WordEncoder(), read_only=True) as reader:
            assert answers(reader, QUERIES) == expected
    with SQLiteStore.open(tmp_path, WordEncoder(), read_only=True) as reader:
        assert answers(reader, QUERIES) == expected
        with pytest.raises(UserError, match="memory must be opened for writing to be changed; got read_only=True"):
            reader.write(make_facts(1))
        with pytest.raises(UserError, match="memory must be opened for writing"):
            reader.forget(ids[:1])


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Be somebody who may read the folder and not write it; root may write everywhere, so it becomes nobody."""
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in folder.parents:
        if os.getuid() == 0 and parent.is_relative_to("/tmp/") and parent != Path("/tmp"):
            parent.chmod(0o755)
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o755)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as name:
        yield Path(name) / "store"


def test_a_folder_that_cannot_be_written_is_read(open_folder: Path) -> None:
    with SQLiteStore.open(open_folder) as store:
        store.write(make_facts(3))
    with unwritable(open_folder):
        with SQLiteStore.open(open_folder, read_only=True) as reader:
            assert len(reader.search("the", k=9)) == 3
        with pytest.raises(
            StateError, match=r"must be (readable and )?writable; got: (Permission denied|attempt to write)"
        ):
            SQLiteStore.open(open_folder)
        with pytest.raises(StateError, match="must be writable; got: Permission denied"):
            SQLiteStore.open(open_folder / "new")


def test_a_log_in_a_folder_that_cannot_be_written_is_not_overlooked(open_folder: Path) -> None:
    with SQLiteStore.open(open_folder) as store:
        store.write(make_facts(3))
        log = (open_folder / f"{FILE_NAME}-wal").read_bytes()
    # as a process that was killed leaves it.
    (open_folder / f"{FILE_NAME}-wal").write_bytes(log)
    with (
        unwritable(open_folder),
        pytest.raises(StateError, match=r"must be writable once.* Copy it to a writable place"),
    ):
        SQLiteStore.open(open_folder, read_only=True)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        ids = store.write(make_facts(10)).ids
        (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
        # what SQLite says when the disk is full: it may not grow by more than three pages.
        store.connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(StateError, match=r"must be on a disk with free space; got: .*full\. Nothing was changed"):
            store.write(make_facts(2_000, start=100))
        assert [row.id for row in store.rows()] == ids
        assert store.verify() == []
        store.connection.execute("PRAGMA max_page_count = 1000000")
        assert len(store.write(make_facts(20, start=100)).ids) == 20


def test_no_room_is_told_by_whatever_name_it_comes(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        database = store._database
        with (
            pytest.raises(StateError, match="must be on a disk with free space; got: No space left"),
            database.errors(),
        ):
            Path("/dev/full").write_text("x")
        assert free_bytes(tmp_path) > 0
        assert free_bytes(Path("/proc")) == 0
        failure = sqlite3.OperationalError("disk I/O error")
        failure.sqlite_errorname = "SQLITE_IOERR_WRITE"
        with pytest.raises(StateError, match="must be usable; got: disk I/O error"), database.errors():
            raise failure
        database.folder = Path("/proc")
        with (
            pytest.raises(StateError, match="/proc must be on a disk with free space; got: disk I/O"),
            database.errors(),
        ):
            raise failure
        database.folder = tmp_path


def test_a_lock_that_is_held_for_too_long_is_told(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, config=StoreConfig(busy_timeout_s=0.05)) as store:
        blocker = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match=r"must be free within 0\.05 s; got: database is locked"):
            store.write(make_facts(1))
        blocker.close()
        store.write(make_facts(1))


def test_a_damaged_database_is_refused_and_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "memory"
    facts = make_facts(300)
    with SQLiteStore.open(folder, WordEncoder()) as store:
        ids = store.write(facts).ids
        store.forget(ids[:5])
    path = folder / FILE_NAME
    data = bytearray(path.read_bytes())
    # a page in the middle of the rows is lost.
    page = data.find(b"number150 ") // 4096
    data[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    path.write_bytes(data)
    with SQLiteStore.open(folder) as store:
        assert "rebuild --recover" in store.verify()[0]
        with pytest.raises(
            StateError, match=f"must be an intact database; got: .*rhapsode memory {folder.parent} rebuild --rec"
        ):
            list(store.rows())
    recovery = recover(folder)
    assert 200 < recovery.rows < 295
    assert recovery.rows + len(recovery.unreadable) == 295
    assert recovery.damaged.read_bytes() == bytes(data)
    with SQLiteStore.open(folder, WordEncoder()) as store:
        assert store.verify() == [
            f"{recovery.damaged} may hold forgotten rows. Delete it when nothing more is to be recovered from it."
        ]
        for row in store.rows():
            assert row.text == facts[row.id - ids[0]].text
        (new,) = store.write([Item("new")]).ids
        assert new > ids[-1]
        assert not store.forget([new]).erased
        recovery.damaged.unlink()
        assert store.forget(store.write([Item("new")]).ids).erased
        assert store.verify() == []
    assert sorted(path.name for path in folder.iterdir()) == [FILE_NAME]
    data[:100] = os.urandom(100)
    path.write_bytes(data)
    with pytest.raises(StateError, match="must be an intact database; got: file is not a database"):
        SQLiteStore.open(folder)
    with pytest.raises(StateError, match=r"must have a readable header; got: .*Nothing can be recovered"):
        recover(folder)
    assert path.exists()
    with pytest.raises(UserError, match="memory must name a folder with a store"):
        recover(tmp_path)


def test_a_damaged_index_file_is_built_again_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder(), config=SMALL_INDEX) as store:
        store.write(make_facts(400))
        expected = answers(store, QUERIES)
    (path,) = tmp_path.glob("index-*.bin")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with (
        caplog.at_level(logging.WARNING, "rhapsode.memory"),
        SQLiteStore.open(tmp_path, WordEncoder(), config=SMALL_INDEX) as store,
    ):
        assert answers(store, QUERIES) == expected
        assert store.verify() == []
    (record,) = caplog.records
    assert re.fullmatch(
        rf"{path} is damaged \(list \d+ has changed\) and is built again; no row is lost\.", record.getMessage()
    )


def test_an_index_that_cannot_be_saved_is_kept_in_memory_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder(), config=SMALL_INDEX) as store:
        store.write(make_facts(300))
        (tmp_path / "index-1.bin").mkdir()
        # reading a folder in place of the file is an error of its own.
        with pytest.raises(StateError, match="Is a directory"):
            store.search("bridge")
        (tmp_path / "index-1.bin").rmdir()
        assert len(store.search("bridge")) == 5


def test_growing_past_the_limit_loses_nothing(tmp_path: Path) -> None:
    facts = make_facts(420)
    with SQLiteStore.open(tmp_path, WordEncoder(), config=SMALL_INDEX) as store:
        for start in range(0, 420, 60):
            store.write(facts[start : start + 60])
            kind = "flat" if start + 60 <= 200 else "inverted file"
            for fact in facts[: start + 60 : 17]:
                assert store.search(fact.text, k=1, mode="vector")[0].row.text == fact.text
            assert store.stats().spaces["default"].index == kind
            assert store.verify() == []
        found = {hit.row.id for hit in store.search(facts[0].text, k=420, mode="vector", where={"place": "oslo"})}
        assert found <= {row.id for row in store.rows(where={"place": "oslo"})}
        store.forget([row.id for row in store.rows(limit=300)])
        assert store.verify() == []
    with SQLiteStore.open(tmp_path, WordEncoder(), config=SMALL_INDEX) as store:
        assert store.stats().spaces["default"].index == "flat"
        assert len(store.search(facts[-1].text, k=500, mode="vector")) <= 120


def test_a_process_that_is_behind_the_log_loads_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhapsode.memory.store.writing.KEPT_CHANGES", 10)
    with SQLiteStore.open(tmp_path, WordEncoder()) as store, SQLiteStore.open(tmp_path, WordEncoder()) as other:
        store.write(make_facts(5))
        assert len(other.search("the", mode="vector", k=50)) <= 5
        store.write(make_facts(30, start=5))
        assert answers(other, QUERIES) == answers(store, QUERIES)
        with pytest.raises(LookupError, match="the log begins at 26, behind 3"):
            store.changes(3)
        assert len(store.changes(25)) == 10


def test_export_and_import_keep_texts_versions_and_spaces(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "a") as store, SQLiteStore.open(tmp_path / "b", WordEncoder()) as other:
        store.write([*make_facts(30), Item("東京", key="k", space="two", provenance={"start": 3})])
        for text in ("first", "second", "third", "first"):
            store.write([Item(text, key="k")])
        assert store.export(tmp_path / "rows.jsonl") == 34
        assert len(other.import_(tmp_path / "rows.jsonl").ids) == 34
        key = lambda row: (row.space, row.text)  # noqa: E731
        for old, new in zip(sorted(store.rows(), key=key), sorted(other.rows(), key=key), strict=True):
            assert (old.text, old.key, old.source, old.space) == (new.text, new.key, new.source, new.space)
            assert (old.metadata, old.provenance, old.created_at) == (new.metadata, new.provenance, new.created_at)
            assert (old.superseded_by is None) == (new.superseded_by is None)
        assert [hit.row.text for hit in other.search("first second third", mode="text")] == ["first"]
        assert answers(store, QUERIES, mode="text") == answers(other, QUERIES, mode="text")
        with pytest.raises(StateError, match="must be writable; got: No such file or directory"):
            store.export(tmp_path / "none" / "rows.jsonl")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2, must be JSON; got"),
        ("[]", "line 2, must be an object with a text"),
        ('{"text": 3}', "line 2, must be an object with a text"),
        ('{"text": "x", "colour": 1}', "line 2, must have only key, text, .*; got 'colour'"),
        ('{"text": "x", "metadata": []}', r"line 2, must have a valid metadata; got \[\]"),
        ('{"text": " "}', r"items\[1\].text must hold more than white space"),
    ],
)
def test_a_bad_line_imports_nothing(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with SQLiteStore.open(tmp_path / "a") as store:
        with pytest.raises(UserError, match=problem):
            store.import_(path)
        assert list(store.rows()) == []
        with pytest.raises(UserError, match="must be a readable file; got: No such file"):
            store.import_(tmp_path / "none")
        path.write_bytes(b'{"text": "\xff"}')
        with pytest.raises(UserError, match="must be UTF-8"):
            store.import_(path)


DAMAGE = {
    "the full-text index does not agree": "DELETE FROM postings WHERE term = 'the'",
    "the totals of the spaces do not agree": "UPDATE spaces SET num_terms = num_terms + 1",
    "the filters do not agree": "DELETE FROM facets WHERE value = '\"oslo\"'",
    "1 rows do not point to the next version": "UPDATE rows SET superseded_by = 5 WHERE id = 3",
    "1 rows or vectors belong to nothing": "INSERT INTO vectors VALUES (999, zeroblob(64))",
}


@pytest.mark.parametrize("problem", DAMAGE)
def test_verify_finds_damage_and_rebuild_repairs_it(tmp_path: Path, problem: str) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        store.write(make_facts(60))
        expected = answers(store, QUERIES)
        store.connection.execute("PRAGMA foreign_keys = OFF")
        store.connection.execute(DAMAGE[problem])
        found = store.verify()
        assert any(text.startswith(problem) and "rhapsode memory RUN rebuild" in text for text in found)
        store.rebuild()
        assert store.verify() == []
        assert answers(store, QUERIES) == expected


def test_verify_finds_bad_vectors_and_index_orphans(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        store.write(make_facts(20))
        store.search("bridge")
        store.connection.execute("UPDATE vectors SET vector = zeroblob(3) WHERE id = 4")
        assert store.verify()[0].startswith("1 vectors are not of the store's width or not finite")


def test_compacting_gives_space_back_and_changes_no_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with SQLiteStore.open(tmp_path, WordEncoder(128), config=SMALL_INDEX) as store:
        ids = store.write(make_facts(1_200)).ids
        store.search("bridge")
        before = store.stats().size_bytes
        store.forget(rng.permutation(ids)[:1_080].tolist())
        expected = answers(store, QUERIES)
        store.compact()
        assert answers(store, QUERIES) == expected
        assert store.verify() == []
        files = sum(path.stat().st_size for path in tmp_path.iterdir() if not path.name.endswith("-shm"))
        assert files < 0.2 * before


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("wwwwfr"), st.integers(0, 5), st.integers(0, 3)), max_size=25))
def test_any_history_equals_the_plain_one(tmp_path_factory: pytest.TempPathFactory, history: list) -> None:
    """Against a dictionary of lists: the newest remaining text of each key, in the order of teaching."""
    folder = tmp_path_factory.mktemp("store")
    plain: dict[str, list[str]] = {}
    with SQLiteStore.open(folder, config=StoreConfig(erase_timeout_s=0)) as store:
        ids: dict[tuple[str, str], int] = {}
        for kind, key_number, text_number in history:
            key, text = f"key {key_number}", f"word{text_number} of{key_number}"
            versions = plain.setdefault(key, [])
            if kind == "w":
                written = store.write([Item(text, key=key)])
                assert written.created == [text not in versions]
                head = versions[-1] if versions else text
                assert written.superseded == [None if head == text else ids[key, head]]
                ids[key, text] = written.ids[0]
                plain[key] = [*(version for version in versions if version != text), text]
            elif kind == "f" and text in versions:
                store.forget([ids[key, text]])
                versions.remove(text)
        assert store.verify() == []
        assert {row.text for row in store.rows() if row.superseded_by is None} == {v[-1] for v in plain.values() if v}
        assert sorted(row.text for row in store.rows()) == sorted(text for v in plain.values() for text in v)
        for key, versions in plain.items():
            hits = store.search(f"of{key[4:]}")
            assert [hit.row.text for hit in hits] == versions[-1:]


def test_it_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rhapsode.memory.store import SQLiteStore\nfrom rhapsode.memory.contracts import Item\n"
        f"with SQLiteStore.open({str(tmp_path)!r}) as store:\n"
        "    ids = store.write([Item('a text')]).ids\n    store.search('text')\n    store.forget(ids)\n"
        "print('torch' in sys.modules, 'faiss' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_lines_are_json(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as store:
        store.write([Item("ü", metadata={"a": [1, None]})])
        (line,) = store.export_lines()
        assert json.loads(line)["metadata"] == {"a": [1, None]}
        assert "ü" in line

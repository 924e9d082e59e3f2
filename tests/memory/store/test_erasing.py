"""After a forget nothing of a row is in any file, whatever the files went through before."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_tools import WordEncoder, answers, files_with, make_facts

from rhapsode.memory.config import IndexConfig, StoreConfig
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore
from rhapsode.memory.store.database import FILE_NAME
from rhapsode.memory.store.erasing import delete_rows
from rhapsode.memory.store.index_files import index_path
from rhapsode.memory.store.sweep import RawFile, sweep

TEXT = "The Zorblatt protocol was designed in Ljubljana in 1987 東京都庁."
# the text, its words as the index has them, and every three letters of the rare ones.
PARTS = ["zorblatt", "ljubljana", "zor", "orb", "rbl", "bla", "latt", "jub", "ubl", "blj", "東京", "京都庁"]


@pytest.mark.parametrize("number", [0, 300])
def test_no_byte_is_left(tmp_path: Path, number: int) -> None:
    facts = [Item(fact.text.lower().replace("lisbon", "oslo"), key=fact.key) for fact in make_facts(number)]
    with SQLiteStore.open(tmp_path, WordEncoder()) as store:
        store.write(facts)
        item = Item(TEXT, key="zorblatt", source="zorblatt.txt", space="zorblatt", metadata={"zorblatt": "zorblatt"})
        (vector,) = WordEncoder().encode([TEXT]).astype(np.float16)
        written = store.write([item])
        assert set(files_with(tmp_path, "zorblatt", "東京"))
        assert store.search("zorblatt", space="zorblatt")[0].row.text == TEXT
        erasure = store.forget(written.ids)
        assert (erasure.erased, erasure.pending) == (True, False)
        assert list(files_with(tmp_path, *PARTS)) == []
        assert not any(vector.tobytes() in path.read_bytes() for path in tmp_path.iterdir())
        assert "zorblatt" not in store.stats().spaces
        assert store.verify() == []
    assert list(files_with(tmp_path, *PARTS)) == []


def test_pages_that_were_balanced_keep_nothing(tmp_path: Path) -> None:
    """Texts of very different lengths make SQLite move cells between pages, which leaves copies behind."""
    rng = np.random.default_rng(3)
    with SQLiteStore.open(tmp_path, config=StoreConfig(checkpoint_pages=100)) as store:
        live: dict[int, str] = {}
        gone: list[str] = []
        for step in range(60):
            words = [f"zq{step}x{i}z" for i in range(12)]
            sizes = rng.choice([1, 10, 80, 400], 12)
            items = [Item(f"{word} " + "filling " * n, key=f"{word} key") for word, n in zip(words, sizes, strict=True)]
            live.update(zip(store.write(items).ids, words, strict=True))
            if step % 8 == 7:
                ids = rng.choice(list(live), len(live) // 3, replace=False).tolist()
                gone += [live.pop(i) for i in ids]
                assert store.forget(ids).erased
        data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        found = set(re.findall(r"zq\d+x\d+z", data.decode("latin-1")))
        assert found == set(live.values())
        assert len(gone) > 200
        assert store.verify() == []


def test_a_sweep_zeroes_gaps_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE t (word TEXT PRIMARY KEY, filling BLOB) WITHOUT ROWID")
    words = [f"w{rng.integers(2**62):016x}" for _ in range(3_000)]
    gone = {word.encode() for word in words[::2]}
    connection.execute("BEGIN")
    for word in words:
        connection.execute("INSERT INTO t VALUES (?, zeroblob(?))", (word, int(rng.choice([1, 100, 900, 5_000]))))
    for word in words[::2]:
        connection.execute("DELETE FROM t WHERE word = ?", (word,))
    connection.execute("COMMIT")
    before = connection.execute("SELECT * FROM t").fetchall()
    # secure_delete alone leaves some: without this, the rest of the test would show nothing.
    assert gone & set(re.findall(rb"w[0-9a-f]{16}", path.read_bytes()))
    raw = RawFile(path)
    assert sweep(raw.descriptor, 4096) > 0
    assert sweep(raw.descriptor, 4096) == 0
    raw.close()
    assert not gone & set(re.findall(rb"w[0-9a-f]{16}", path.read_bytes()))
    connection.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT * FROM t").fetchall() == before
    connection.close()


def test_a_file_too_large_to_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    os.truncate(path, 2**25 * 512)
    raw = RawFile(path)
    with pytest.raises(OverflowError, match="a sweep needs fewer than 33554432 pages; got 33554432"):
        sweep(raw.descriptor, 512)
    raw.close()


def test_a_reader_delays_the_erasure_until_the_next_open(tmp_path: Path) -> None:
    config = StoreConfig(erase_timeout_s=0.1)
    with SQLiteStore.open(tmp_path, config=config) as store:
        ids = store.write([*make_facts(5), Item(TEXT)]).ids
        reader = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM rows").fetchone() == (6,)
        erasure = store.forget(ids[-1:])
        assert (erasure.erased, erasure.pending) == (False, True)
        # it is forgotten all the same.
        assert store.search("zorblatt") == []
        assert store.stats().pending_erasures == 1
        assert store.verify() == [
            "1 forgotten rows are still to be erased from the files. Close other readers and open it again."
        ]
        assert list(files_with(tmp_path, "zorblatt"))
        reader.execute("COMMIT")
        reader.close()
    with SQLiteStore.open(tmp_path, config=config) as store:
        assert store.stats().pending_erasures == 0
        assert list(files_with(tmp_path, *PARTS)) == []


def test_a_later_forget_finishes_an_earlier_one(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path, config=StoreConfig(erase_timeout_s=0.0)) as store:
        ids = store.write([*make_facts(5), Item(TEXT)]).ids
        reader = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM rows").fetchone()
        assert not store.forget(ids[-1:]).erased
        reader.close()
        assert store.forget(ids[:1]).erased
        assert list(files_with(tmp_path, *PARTS)) == []
        assert store.stats().pending_erasures == 0


def test_an_erasure_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    config = StoreConfig(index=IndexConfig(flat_limit=100, lists_factor=0.5))
    with SQLiteStore.open(tmp_path, WordEncoder(), config=config) as store:
        ids = store.write([*make_facts(200), Item(TEXT)]).ids
        store.search("zorblatt")
        # as a process leaves it that dies between the two halves of a forget.
        store.connection.execute("BEGIN IMMEDIATE")
        delete_rows(store.connection, ids[-1:])
        store.connection.execute("COMMIT")
        assert list(files_with(tmp_path, "zorblatt"))
    tmp_path.joinpath(f".{index_path(tmp_path, 1).name}.123.tmp").write_bytes(b"zorblatt")
    with SQLiteStore.open(tmp_path, WordEncoder(), config=config) as store:
        assert list(files_with(tmp_path, *PARTS)) == []
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "index-1.bin", "memory.db", "memory.db-shm", "memory.db-wal",
        ]  # fmt: skip
        assert store.verify() == []


def test_the_code_of_a_row_leaves_the_index_file(tmp_path: Path) -> None:
    config = StoreConfig(index=IndexConfig(flat_limit=100, lists_factor=0.5))
    encoder = WordEncoder()
    with SQLiteStore.open(tmp_path, encoder, config=config) as store:
        ids = store.write(make_facts(300)).ids
        other = store.write([Item("another space", space="other")]).ids
        expected = answers(store, ["Where is the bridge?"], mode="vector", k=300)
        path = index_path(tmp_path, 1)
        before = path.read_bytes()
        (extra,) = store.write([Item("The bridge of Zorblatt")]).ids
        store.rebuild()
        assert np.int64(extra).tobytes() in path.read_bytes()
        store.forget([extra])
        assert np.int64(extra).tobytes() not in path.read_bytes()
        assert store.verify() == []
        store.rebuild()
        # centroids are means over all rows: only training again gives the very file of a store that never held it.
        header = 4096
        assert path.read_bytes()[header:] == before[header:]
        assert answers(store, ["Where is the bridge?"], mode="vector", k=300) == expected
        path.write_bytes(b"damaged")
        store.forget([*ids, *other])
        assert sorted(path.name for path in tmp_path.glob("index*")) == []


def test_another_store_cannot_write_old_bytes_back(tmp_path: Path) -> None:
    """A second connection has read the pages before they are swept, and changes the same pages afterwards."""
    with SQLiteStore.open(tmp_path) as store, SQLiteStore.open(tmp_path) as other:
        rng = np.random.default_rng(0)
        items = [
            Item(f"zq{i}z " + "filling " * int(n), key=str(i)) for i, n in enumerate(rng.choice([1, 50, 300], 300))
        ]
        ids = store.write(items).ids
        for step in range(6):
            assert len(list(other.rows())) == 300 - 50 * step
            other.search("filling zq3z")
            gone = ids[step::6]
            assert store.forget(gone).erased
            other.write([Item(items[step - 300].text + " again", key="again")])
            other.forget([row.id for row in other.rows() if row.key == "again"])
            data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            assert [i for i in gone if f"zq{i - ids[0]}z ".encode() in data] == []


def test_closing_one_store_keeps_the_locks_of_another(tmp_path: Path) -> None:
    script = (
        "import sqlite3, sys\nconnection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "try:\n    print(connection.execute('PRAGMA journal_mode = DELETE').fetchone()[0])\n"
        "except sqlite3.OperationalError as error:\n    print(error)\n"
    )
    with SQLiteStore.open(tmp_path) as store:
        store.write(make_facts(2))
        with SQLiteStore.open(tmp_path) as other:
            other.forget([1])
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / FILE_NAME)], capture_output=True, text=True)
        # the other process may not take the log away under an open store.
        assert done.stdout.strip() == "database is locked"
        store.write(make_facts(3))
        assert store.verify() == []

"""Rows out to JSON lines and back, and out of a damaged database."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhapsode.errors import StateError, UserError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Item
from rhapsode.memory.store.database import DAMAGED_NAME, FILE_NAME, Database, put_aside
from rhapsode.memory.store.maintenance import rebuild_tables
from rhapsode.memory.store.reading import Snapshot, get_rows_that_exist
from rhapsode.memory.store.writing import hash_text
from rhapsode.runfolder import sync_folder

PAGE = 1_000
_ITEM_FIELDS = ("key", "text", "source", "space", "metadata", "provenance", "created_at")
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged database raises; its messages may hold bytes of the damage."""
_OTHER_FIELDS = ("id", "version", "superseded_by", "encoder")


def export_lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield a JSON line a row, in the order in which they became current: written in turn, they give these versions."""
    with snapshot() as connection:
        ids = [row_id for (row_id,) in connection.execute("SELECT id FROM rows ORDER BY turn, id")]
    for start in range(0, len(ids), PAGE):
        with snapshot() as connection:
            rows = get_rows_that_exist(connection, ids[start : start + PAGE])
        for row in rows:
            fields = {name: getattr(row, name) for name in ("id", *_ITEM_FIELDS, "version")}
            yield json.dumps(fields, ensure_ascii=False) + "\n"


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines so that `path` has all of them or what it had before; return their number.

    Raises:
        StateError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    number = 0
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                number += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StateError(f"{path} must be writable; got: {error.strerror}. Choose another file.") from None
        raise
    return number


def read_lines(path: Path) -> Iterator[Item]:
    """Yield the items of a file that `export` wrote, or of one that has at least `text` in each line.

    Raises:
        UserError: naming the file, the line and what is wrong with it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _read_item(line, f"{path}, line {number},")
    except OSError as error:
        raise UserError(f"{path} must be a readable file; got: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8; got: {error.reason}.") from None


def _read_item(line: str, where: str) -> Item:
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} must be JSON; got: {error}.") from None
    if not isinstance(values, dict) or not isinstance(values.get("text"), str):
        raise UserError(f"{where} must be an object with a text; got {line[:40].strip()!r}.")
    unknown = [name for name in values if name not in (*_ITEM_FIELDS, *_OTHER_FIELDS)]
    if unknown:
        raise UserError(f"{where} must have only {', '.join(_ITEM_FIELDS)}; got '{unknown[0]}'.")
    kinds: dict[str, tuple[type, ...]] = {
        "key": (str, type(None)), "source": (str, type(None)), "space": (str,), "metadata": (dict,),
        "provenance": (dict,), "created_at": (int, float, type(None)),
    }  # fmt: skip
    for name, allowed in kinds.items():
        if name in values and not isinstance(values[name], allowed):
            raise UserError(f"{where} must have a valid {name}; got {values[name]!r}.")
    return Item(**{name: values[name] for name in _ITEM_FIELDS if name in values})


@dataclass(frozen=True)
class Recovery:
    """What was saved from a damaged database."""

    rows: int
    unreadable: list[int]
    """Ids at which the damage was met; some of them may have been forgotten before."""
    damaged: Path
    """Where the damaged file is now. It may hold forgotten rows, so nothing counts as erased until it is deleted."""


def recover(folder: str | Path, config: StoreConfig | None = None) -> Recovery:
    """Make a new database of all rows that can still be read, under their ids, and put the damaged one aside.

    No other process may have the store open.

    Raises:
        UserError: if there is no store.
        StateError: if nothing can be read.
    """
    folder = Path(folder)
    old, work = folder / FILE_NAME, folder / "recovering"
    if not old.exists():
        raise UserError(f"memory must name a folder with a store; got {folder}, which has no {FILE_NAME}.")
    shutil.rmtree(work, ignore_errors=True)
    with closing(sqlite3.connect(old, isolation_level=None)) as source:
        try:
            if not old.stat().st_size:
                raise sqlite3.DatabaseError("an empty file")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except _DAMAGE as error:
            raise StateError(
                f"{old} must have a readable header; got: {error}. "
                "Nothing can be recovered: remove it, and import an export."
            ) from None
        new = Database(work, config or StoreConfig())
        try:
            with new.transaction() as target:
                rows, unreadable = _copy_readable(source, target)
                rebuild_tables(target)
        finally:
            new.close()
    damaged = folder / DAMAGED_NAME
    for earlier in put_aside(folder):
        earlier.unlink()
    os.link(old, damaged)
    # the old log must never meet the new database; an opened store has one database or the other at any moment.
    for suffix in ("-wal", "-shm"):
        if (log := folder / (FILE_NAME + suffix)).exists():
            os.replace(log, folder / (DAMAGED_NAME + suffix))
    os.replace(work / FILE_NAME, old)
    shutil.rmtree(work)
    for index in folder.glob("index-*.bin"):
        index.unlink()
    sync_folder(folder)
    return Recovery(rows, unreadable, damaged)


_ROW_COLUMNS = (
    "id, space, key, text, source, metadata, provenance, created_at, version, turn, superseded_by, key_hash, text_hash"
)


def _copy_readable(source: sqlite3.Connection, target: sqlite3.Connection) -> tuple[int, list[int]]:
    names = dict(_readable(source, "SELECT id, name FROM spaces WHERE typeof(name) = 'text'"))
    settings = _readable(source, "SELECT name, value FROM settings WHERE typeof(value) = 'text'")
    sequences = dict(_readable(source, "SELECT name, seq FROM sqlite_sequence WHERE typeof(seq) = 'integer'"))
    # without the counter, ids are looked for until the largest that any table knows.
    known = [_readable(source, f"SELECT max(id) FROM {table}") for table in ("rows", "vectors", "changes", "erasures")]
    last = sequences.get("rows") or max([0, *(i for found in known for (i,) in found if isinstance(i, int))])
    copied = 0
    unreadable = []
    target.execute("DELETE FROM spaces")
    spaces: set[int] = set()
    for row_id in range(1, last + 1):
        try:
            row = source.execute(f"SELECT {_ROW_COLUMNS} FROM rows WHERE id = ?", (row_id,)).fetchone()
        except _DAMAGE:
            unreadable.append(row_id)
            continue
        if row is None:
            continue
        if not _is_whole(row):
            unreadable.append(row_id)
            continue
        if row[1] not in spaces:
            spaces.add(row[1])
            target.execute(
                "INSERT INTO spaces (id, name) VALUES (?, ?)", (row[1], names.get(row[1], f"space {row[1]}"))
            )
        target.execute(f"INSERT INTO rows ({_ROW_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
        for vector in _readable(
            source, "SELECT id, vector FROM vectors WHERE id = ? AND typeof(vector) = 'blob'", row_id
        ):
            target.execute("INSERT INTO vectors VALUES (?, ?)", vector)
        copied += 1
    target.execute("INSERT OR IGNORE INTO spaces (name) VALUES ('default')")
    target.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings)
    if not settings:
        # without the encoder's name, vectors cannot be trusted.
        target.execute("DELETE FROM vectors")
    for name, seq in {**sequences, "rows": last}.items():
        target.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, seq))
    return copied, unreadable


def _is_whole(row: Sequence[Any]) -> bool:
    """Return whether a row that could be read is what was written: a damaged page may still look like one."""
    _, space, key, text, source, metadata, provenance, created_at, version, turn, superseded_by, *hashes = row
    numbers = (space, version, turn)
    try:
        return (
            isinstance(text, str)
            and [hash_text(key), hash_text(text)] == hashes
            and isinstance(source, str | None)
            and isinstance(json.loads(metadata), dict)
            and isinstance(json.loads(provenance), dict)
            and isinstance(created_at, float)
            and all(isinstance(number, int) for number in numbers)
            and isinstance(superseded_by, int | None)
        )
    except (ValueError, TypeError, AttributeError):
        return False


def _readable(source: sqlite3.Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what can be read of a table, nothing where it is damaged."""
    found: list[tuple[Any, ...]] = []
    try:
        for row in source.execute(query, values):
            found.append(row)
    except _DAMAGE:
        # what was read before the damage counts.
        return found
    return found

"""How items become rows: upserts, versions of a key, and the bookkeeping of one transaction."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from rhapsode.errors import UserError
from rhapsode.memory.contracts import Item, Written
from rhapsode.memory.store.checks import encode_json
from rhapsode.memory.store.postings import PostingChanges
from rhapsode.memory.store.reading import last_seq, read_setting
from rhapsode.memory.store.vectors import encode_vector
from rhapsode.memory.terms import searchable

GATHERED_ROWS = 5_000
"""Rows whose terms are held in memory before they are written to the index."""
KEPT_CHANGES = 100_000
"""Entries of the log that are kept; a process that is further behind loads its index anew."""
EARLIER_SOURCES = "earlier_sources"
"""Entry of a row's provenance: labels it was taught with before its present one, by which it is found as well."""
GIVEN = "given"
"""Stands for the encoder where vectors came without one."""


def hash_text(text: str | None) -> int:
    """Return a signed 64-bit hash by which equal texts are found; 0 for None. Collisions are told apart by reading."""
    if text is None:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class Writer:
    """Writes items within one transaction; call `finish` at its end."""

    def __init__(self, connection: sqlite3.Connection, encoder: str | None) -> None:
        """Start.

        Args:
            encoder: fingerprint of what makes the vectors; None if they come without an encoder, or not at all.
        """
        self._connection = connection
        self._encoder = encoder
        self._spaces: dict[str, int] = {}
        self._postings = PostingChanges()
        self._written = Written([], [], [])

    def write(self, items: Sequence[Item], vectors: Float32[np.ndarray, "N M"] | None) -> None:
        """Add or update checked items.

        Raises:
            UserError: if the vectors are not those of the store's encoder, or not as wide as its.
        """
        if vectors is not None:
            claim_encoder(self._connection, self._encoder, vectors.shape[1])
        for number, item in enumerate(items):
            self._write(item, None if vectors is None else vectors[number])
            if len(self._postings) >= GATHERED_ROWS:
                self._postings.apply(self._connection)

    def finish(self) -> Written:
        """Write the index, shorten the log, and return what was done."""
        self._postings.apply(self._connection)
        self._connection.execute("DELETE FROM changes WHERE seq <= ?", (last_seq(self._connection) - KEPT_CHANGES,))
        return self._written

    def _write(self, item: Item, vector: Float32[np.ndarray, " M"] | None) -> None:
        space = self._space(item.space)
        head = find_head(self._connection, space, item.key)
        existing = self._find_existing(space, item)
        if existing is None:
            row_id = self._insert(space, item, head)
        else:
            row_id = existing
            self._update(space, row_id, item)
        if existing is None or (head is not None and head != row_id):
            self._make_current(space, row_id, item, head, is_new=existing is None)
        if vector is not None:
            self._store_vector(space, row_id, vector, known=existing is not None)
        self._written.ids.append(row_id)
        self._written.created.append(existing is None)
        self._written.superseded.append(None if head == row_id else head)

    def _space(self, name: str) -> int:
        if name not in self._spaces:
            self._connection.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", (name,))
            (number,) = self._connection.execute("SELECT id FROM spaces WHERE name = ?", (name,)).fetchone()
            self._spaces[name] = int(number)
        return self._spaces[name]

    def _find_existing(self, space: int, item: Item) -> int | None:
        candidates = self._connection.execute(
            "SELECT id, key, text FROM rows WHERE space = ? AND key_hash = ? AND text_hash = ?",
            (space, hash_text(item.key), hash_text(item.text)),
        )
        return next((row_id for row_id, key, text in candidates if (key, text) == (item.key, item.text)), None)

    def _insert(self, space: int, item: Item, head: int | None) -> int:
        version = 1
        if head is not None:
            (newest,) = self._connection.execute("SELECT version FROM rows WHERE id = ?", (head,)).fetchone()
            version = newest + 1
        cursor = self._connection.execute(
            "INSERT INTO rows (space, key, text, source, metadata, provenance, created_at, version, turn, key_hash, "
            "text_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                space, item.key, item.text, item.source, encode_json(item.metadata, "metadata"),
                encode_json(item.provenance, "provenance"),
                time.time() if item.created_at is None else item.created_at, version,
                last_seq(self._connection) + 1, hash_text(item.key), hash_text(item.text),
            ),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        write_facets(self._connection, space, cursor.lastrowid, item)
        return cursor.lastrowid

    def _update(self, space: int, row_id: int, item: Item) -> None:
        """Take over what the item brings; what it says nothing about stays as it is."""
        source, old, provenance = self._connection.execute(
            "SELECT source, metadata, provenance FROM rows WHERE id = ?", (row_id,)
        ).fetchone()
        metadata = encode_json(item.metadata, "metadata") if item.metadata else old
        self._connection.execute(
            "UPDATE rows SET source = coalesce(?, source), metadata = ?, provenance = ? WHERE id = ?",
            (item.source, metadata, _merge_provenance(json.loads(provenance), source, item), row_id),
        )
        if metadata != old:
            delete_facets(self._connection, space, row_id, old)
            write_facets(self._connection, space, row_id, item)

    def _make_current(self, space: int, row_id: int, item: Item, head: int | None, *, is_new: bool) -> None:
        """Let `row_id` answer from now on, in place of `head`."""
        if head is not None:
            if is_new:
                self._connection.execute("UPDATE rows SET superseded_by = ? WHERE id = ?", (row_id, head))
            else:
                # taught again after a newer one: it takes its place at the end of the key's versions.
                self._connection.execute(
                    "UPDATE rows SET turn = ?, version = (SELECT version + 1 FROM rows WHERE id = ?) WHERE id = ?",
                    (last_seq(self._connection) + 1, head, row_id),
                )
                relink(self._connection, space, item.key)
            (text,) = self._connection.execute("SELECT text FROM rows WHERE id = ?", (head,)).fetchone()
            self._postings.remove(space, head, searchable(item.key, text))
            log_change(self._connection, "drop", head, space)
        self._postings.add(space, row_id, searchable(item.key, item.text))
        log_change(self._connection, "add", row_id, space)

    def _store_vector(self, space: int, row_id: int, vector: Float32[np.ndarray, " M"], *, known: bool) -> None:
        data = encode_vector(vector)
        if known:
            old = self._connection.execute("SELECT vector FROM vectors WHERE id = ?", (row_id,)).fetchone()
            if old is not None and old[0] == data:
                return
            log_change(self._connection, "add", row_id, space)
        self._connection.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (row_id, data))


def _merge_provenance(old: dict[str, Any], source: str | None, item: Item) -> str:
    """Return the provenance of a text that is taught again, with the labels that it must still be found by."""
    merged = dict(item.provenance or old)
    labels = [*old.get(EARLIER_SOURCES, ()), source, *merged.get(EARLIER_SOURCES, ())]
    present = item.source or source
    if earlier := list(dict.fromkeys(label for label in labels if label is not None and label != present)):
        merged[EARLIER_SOURCES] = earlier
    else:
        merged.pop(EARLIER_SOURCES, None)
    return encode_json(merged, "provenance")


def claim_encoder(connection: sqlite3.Connection, fingerprint: str | None, width: int) -> None:
    """Note whose vectors the store holds; vectors without an encoder are taken for those of the store's.

    Raises:
        UserError: if it holds another encoder's, or vectors of another width.
    """
    stored, stored_width = read_setting(connection, "encoder"), read_setting(connection, "width")
    if stored is None:
        connection.executemany(
            "INSERT INTO settings VALUES (?, ?)", [("encoder", fingerprint or GIVEN), ("width", str(width))]
        )
    elif fingerprint not in (None, stored):
        raise encoder_changed(stored, str(fingerprint))
    elif stored_width != str(width):
        raise UserError(f"vectors must be {stored_width} wide, as those in memory; got {width}.")


def encoder_changed(stored: str, given: str) -> UserError:
    """Build the error for vectors of another encoder."""
    return UserError(
        f"encoder must be the one that made the stored vectors, {stored}; got {given}. "
        "Encode all rows again with: rhapsode memory RUN rebuild --reencode"
    )


def log_change(connection: sqlite3.Connection, op: str, row_id: int, space: int) -> None:
    """Append to the log that every process replays."""
    connection.execute("INSERT INTO changes (op, id, space) VALUES (?, ?, ?)", (op, row_id, space))


def find_head(connection: sqlite3.Connection, space: int, key: str | None) -> int | None:
    """Return the current row of a key."""
    if key is None:
        return None
    candidates = connection.execute(
        "SELECT id, key FROM rows WHERE space = ? AND key_hash = ? AND superseded_by IS NULL", (space, hash_text(key))
    )
    return next((row_id for row_id, other in candidates if other == key), None)


def relink(connection: sqlite3.Connection, space: int, key: str | None) -> None:
    """Let each version of a key point to the next one, and the last to none."""
    if key is None:
        return
    found = connection.execute(
        "SELECT id, key FROM rows WHERE space = ? AND key_hash = ? ORDER BY turn, id", (space, hash_text(key))
    ).fetchall()
    ids = [row_id for row_id, other in found if other == key]
    connection.executemany(
        "UPDATE rows SET superseded_by = ? WHERE id = ?", list(zip([*ids[1:], None], ids, strict=False))
    )


def write_facets(connection: sqlite3.Connection, space: int, row_id: int, item: Item) -> None:
    """Make a row findable by its metadata."""
    connection.executemany(
        "INSERT INTO facets VALUES (?, ?, ?, ?)",
        [(space, name, encode_json(value, f"metadata.{name}"), row_id) for name, value in item.metadata.items()],
    )


def delete_facets(connection: sqlite3.Connection, space: int, row_id: int, metadata: str) -> None:
    """Undo `write_facets`; `metadata` is the row's JSON text."""
    connection.executemany(
        "DELETE FROM facets WHERE space = ? AND name = ? AND value = ? AND id = ?",
        [(space, name, encode_json(value, name), row_id) for name, value in json.loads(metadata).items()],
    )

"""`SQLiteStore`: the durable store that every run has, in one folder, without a server."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Change, Encoder, Erasure, Hit, Item, Row, Written
from rhapsode.memory.items import normalise_key
from rhapsode.memory.store.checks import check_item, check_string, check_vectors, encode_texts
from rhapsode.memory.store.database import Database
from rhapsode.memory.store.erasing import delete_rows, finish_erasures, has_erasures
from rhapsode.memory.store.filtering import Selector, facet
from rhapsode.memory.store.maintenance import (
    StoreStats,
    collect_stats,
    compact_file,
    large_spaces,
    rebuild_tables,
    reencode,
)
from rhapsode.memory.store.reading import (
    Condition,
    find_space,
    get_rows,
    iterate_rows,
    last_seq,
    match_ids,
    read_changes,
    read_setting,
)
from rhapsode.memory.store.searching import Searcher
from rhapsode.memory.store.statistics import count_rows, document_frequencies, sample_ids
from rhapsode.memory.store.transfer import export_lines, read_lines, write_lines
from rhapsode.memory.store.vector_search import VectorSearch
from rhapsode.memory.store.verifying import find_problems
from rhapsode.memory.store.versions import add_versions, find_versions, restored_without
from rhapsode.memory.store.writing import EARLIER_SOURCES, Writer, encoder_changed
from rhapsode.memory.terms import searchable

IMPORTED_AT_ONCE = 1_000
# a label of earlier times stands in the provenance; the text is looked at before it is parsed.
_HAS_SOURCE = (
    f"(source = ? OR (instr(provenance, '\"{EARLIER_SOURCES}\"') AND EXISTS "
    f"(SELECT 1 FROM json_each(provenance, '$.{EARLIER_SOURCES}') AS label WHERE label.value = ?)))"
)


class SQLiteStore:
    """Rows in SQLite, full text and vectors beside them. Safe for several threads, and for several processes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, SQLiteStore.open(folder) as store:
    ...     written = store.write([Item("The zorblatt protocol was designed in Lisbon.")])
    ...     hits = store.search("Where was zorblatt designed?")
    ...     erasure = store.forget(written.ids)
    >>> hits[0].row.text, erasure.erased
    ('The zorblatt protocol was designed in Lisbon.', True)
    """

    def __init__(self, database: Database, encoder: Encoder | None, config: StoreConfig) -> None:
        """Use `open`."""
        self._database = database
        self._encoder = encoder
        self._config = config
        self._vectors = VectorSearch(database, config)
        self._selector = Selector()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: Encoder | None = None,
        read_only: bool = False,
        create: bool = True,
        config: StoreConfig | None = None,
    ) -> "SQLiteStore":
        """Open the store in `folder`, and finish what an interrupted forget left.

        Args:
            encoder: makes the vectors of what is written and searched; without it, text alone is searched.
            read_only: change nothing that is stored; a folder that cannot be written needs it.
            create: make the store if there is none.

        Raises:
            UserError: if there is no store and `create` is false, or the stored vectors are another encoder's.
            StateError: if the store is damaged, of a newer version, or cannot be used.
        """
        config = config or StoreConfig()
        database = Database(Path(folder), config, read_only=read_only, create=create)
        store = cls(database, encoder, config)
        try:
            store._check_encoder()
            if not read_only and store._has_erasures():
                finish_erasures(database, config.erase_timeout_s)
        except BaseException:
            store.close()
            raise
        return store

    def _has_erasures(self) -> bool:
        with self._database.snapshot() as connection:
            return has_erasures(connection)

    def _check_encoder(self) -> None:
        with self._database.snapshot() as connection:
            stored = read_setting(connection, "encoder")
        if self._encoder is not None and stored is not None and stored != self._encoder.fingerprint:
            raise encoder_changed(stored, self._encoder.fingerprint)

    @property
    def capabilities(self) -> frozenset[str]:
        """What this store promises; see `Store.capabilities`."""
        return frozenset({"multi_process", "secure_delete", "transactions", "read_only"})

    @property
    def seq(self) -> int:
        """Number of the last change by any process."""
        with self._database.snapshot() as connection:
            return last_seq(connection)

    def write(self, items: Sequence[Item], vectors: Float[np.ndarray, "N M"] | None = None) -> Written:
        """Add or update items, all or nothing; they are on disk when this returns.

        The same text under the same key in the same space is updated and keeps its id. A new text under a key
        supersedes the older one, which stays listed.

        Args:
            vectors: one an item, of any length but 0 (rows of zeros are never found); without them, the store's encoder
                makes them, if it has one.

        Raises:
            UserError: naming the first item that cannot be stored, and why.
            StateError: if the encoder gives unusable vectors, or the disk is full; nothing was written.
        """
        self.check(items)
        unit = None
        if vectors is not None:
            unit = check_vectors(vectors, len(items), None)
        elif self._encoder is not None:
            unit = encode_texts(self._encoder, [searchable(item.key, item.text) for item in items])
        with self._database.transaction() as connection:
            writer = Writer(connection, None if self._encoder is None else self._encoder.fingerprint)
            writer.write(items, unit)
            return writer.finish()

    def check(self, items: Sequence[Item]) -> None:
        """Raise UserError naming the first item that cannot be stored, and why; nothing is written."""
        for number, item in enumerate(items):
            check_item(item, self._config, number if len(items) > 1 else None)

    def search(
        self,
        query: str,
        k: int = 5,
        space: str = "default",
        where: Mapping[str, Any] | None = None,
        vector: Float[np.ndarray, " M"] | None = None,
        mode: str = "hybrid",
    ) -> list[Hit]:
        """Return the k best current rows of a space, best first, ties by id; fewer where fewer match.

        Args:
            query: any text; nothing in it is an operator.
            where: metadata that a row must have, all of it, with equal values. Rows without it change no score. The
                first search by a filter counts the terms of the rows that it leaves.
            vector: of the query; without it, the store's encoder makes it.
            mode: `text` (BM25), `vector` (cosine), or `hybrid`: reciprocal-rank fusion of both (Cormack, Clarke and
                Büttcher 2009), which needs no scale common to the two. Without a vector, hybrid is text.

        Raises:
            UserError: if the query is empty, k is below 1, the space or the mode does not exist, or vectors are asked
                for and there is neither an encoder nor a vector.
        """
        searcher = Searcher(self._database, self._vectors, self._selector, self._encoder, self._config)
        return searcher.search(query, k, space, where, vector, mode)

    def get(self, ids: Sequence[int]) -> list[Row]:
        """Return rows by id, in the order asked for. Raises UserError naming the first id that is not there."""
        with self._database.snapshot() as connection:
            return get_rows(connection, ids)

    def rows(
        self,
        space: str | None = None,
        where: Mapping[str, Any] | None = None,
        source: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Return an iterator over rows in the order of their ids, superseded ones too.

        It reads pages of 1,000 and holds no lock between them: rows written meanwhile may come, each at most once.

        Raises:
            UserError: if there is no such space.
        """
        conditions: list[Condition] = []
        if space is not None:
            with self._database.snapshot() as connection:
                conditions.append(("rows.space = ?", (find_space(connection, space),)))
        if source is not None:
            check_string(source, "source", self._config.max_text_bytes)
            conditions.append((_HAS_SOURCE, (source, source)))
        for name, value in (where or {}).items():
            condition = (
                "EXISTS (SELECT 1 FROM facets "
                "WHERE facets.space = rows.space AND name = ? AND value = ? AND facets.id = rows.id)"
            )
            conditions.append((condition, facet(name, value)))
        return iterate_rows(self._database.snapshot, conditions, after_id, limit)

    def match(self, text: str, space: str | None = None) -> list[Row]:
        """Return all rows whose text, key or source contains `text`, letter case ignored; superseded ones too.

        Raises:
            UserError: if the text is empty or there is no such space.
        """
        check_string(text, "text to match", self._config.max_text_bytes)
        with self._database.snapshot() as connection:
            number = None if space is None else find_space(connection, space)
            return get_rows(connection, match_ids(connection, text, number))

    def versions(self, key: str, space: str | None = None) -> list[Row]:
        """Return all rows under a key, superseded ones too, in the order of their ids.

        The key is looked for as it is, and in the form in which the keys of what is taught by hand are kept.

        Raises:
            UserError: if the key is empty or there is no such space.
        """
        check_string(key, "key", self._config.max_text_bytes)
        with self._database.snapshot() as connection:
            return get_rows(connection, find_versions(connection, [key, normalise_key(key)], space))

    def with_versions(self, ids: Sequence[int]) -> list[Row]:
        """Return rows and every other version of their keys. Raises UserError naming the first id that is not there."""
        with self._database.snapshot() as connection:
            get_rows(connection, ids)
            return get_rows(connection, add_versions(connection, ids))

    def restored_without(self, ids: Sequence[int]) -> list[Row]:
        """Return the older versions that would answer again if these rows were forgotten."""
        with self._database.snapshot() as connection:
            return get_rows(connection, restored_without(connection, ids))

    def count(self, space: str = "default", where: Mapping[str, Any] | None = None) -> int:
        """Return the number of current rows of a space, or of those with this metadata.

        Raises:
            UserError: if there is no such space.
        """
        with self._database.snapshot() as connection:
            return count_rows(connection, find_space(connection, space), where)

    def document_frequency(
        self, words: Sequence[str], space: str = "default", where: Mapping[str, Any] | None = None
    ) -> dict[str, int]:
        """Return how many current rows of a space, or of those with this metadata, hold each word, in key or text.

        Raises:
            UserError: if there is no such space.
        """
        with self._database.snapshot() as connection:
            return document_frequencies(connection, find_space(connection, space), words, where)

    def sample(self, count: int, space: str = "default") -> list[Row]:
        """Return up to `count` current rows of a space, as good as drawn at random, but always the same for equal rows.

        Raises:
            UserError: if there is no such space.
        """
        with self._database.snapshot() as connection:
            return get_rows(connection, sample_ids(connection, find_space(connection, space), count))

    def changes(self, after: int = 0) -> list[Change]:
        """Return what happened after a `seq`, oldest first; an `add` may repeat.

        Raises:
            LookupError: if the log no longer goes back that far (it keeps 100,000 entries): read all rows instead.
        """
        with self._database.snapshot() as connection:
            return read_changes(connection, after)

    def forget(self, ids: Sequence[int]) -> Erasure:
        """Delete rows, all or none, and erase their bytes from every file of the store.

        Forgetting the newest version of a key makes the one before it current again: afterwards, every answer is
        that of a store which never held the row. To forget a key for good, forget all of its versions.

        Raises:
            UserError: naming the first id that is not there; nothing was forgotten.
        """
        ids = list(dict.fromkeys(ids))
        with self._database.transaction() as connection:
            restored = delete_rows(connection, ids)
        erased = finish_erasures(self._database, self._config.erase_timeout_s)
        return Erasure(ids, erased, not erased, restored)

    def stats(self) -> StoreStats:
        """Return what the store holds."""
        return collect_stats(self._database, self._vectors)

    def verify(self) -> list[str]:
        """Return one sentence for each thing that is wrong, nothing if all is well; nothing is changed."""
        return find_problems(self._database, self._vectors)

    def rebuild(self) -> None:
        """Derive everything again from rows and vectors: versions, filters, full text, and the vector indexes."""
        with self._database.transaction() as connection:
            rebuild_tables(connection)
            self._vectors.clear()
        self._vectors.save(large_spaces(self._database, self._vectors))
        finish_erasures(self._database, self._config.erase_timeout_s)

    def reencode(self, encoder: Encoder) -> int:
        """Give every row a vector of `encoder`, all or nothing, and use it from now on; return their number.

        A store with another encoder's vectors must be opened without an encoder for this. Writers wait meanwhile.

        Raises:
            StateError: if the encoder gives unusable vectors; the old ones are kept.
        """
        with self._database.transaction() as connection:
            total = reencode(connection, encoder)
            self._vectors.clear()
        self._encoder = encoder
        self._vectors.save(large_spaces(self._database, self._vectors))
        finish_erasures(self._database, self._config.erase_timeout_s)
        return total

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk; needs room for a second copy while it runs.

        Raises:
            StateError: if the disk is full or another process does not let go in time.
        """
        compact_file(self._database)
        self._vectors.remove_unused()
        self._vectors.save(large_spaces(self._database, self._vectors))

    def export_lines(self) -> Iterator[str]:
        """Return an iterator over all rows as JSON lines; vectors are left out, since an encoder makes them again."""
        return export_lines(self._database.snapshot)

    def export(self, path: str | Path) -> int:
        """Write all rows to a file of JSON lines, atomically; return their number.

        Raises:
            StateError: if it cannot be written.
        """
        return write_lines(Path(path), self.export_lines())

    def import_(self, path: str | Path) -> Written:
        """Add the rows of an exported file, all or none, as `write` does; they get new ids.

        Raises:
            UserError: naming the line that cannot be stored, and why.
        """
        with self._database.transaction() as connection:
            writer = Writer(connection, None if self._encoder is None else self._encoder.fingerprint)
            lines = enumerate(read_lines(Path(path)))
            while batch := list(islice(lines, IMPORTED_AT_ONCE)):
                items = [item for _, item in batch]
                for number, item in batch:
                    check_item(item, self._config, number)
                texts = [searchable(item.key, item.text) for item in items]
                writer.write(items, None if self._encoder is None else encode_texts(self._encoder, texts))
            return writer.finish()

    def close(self) -> None:
        """Write the vector index if it has changed much, and release the files. Calling it again does nothing."""
        if self._database.is_open:
            try:
                self._vectors.save_if_stale()
            finally:
                self._database.close()

    def __enter__(self) -> "SQLiteStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for looking at the tables; writing through it bypasses every promise."""
        return self._database.connection

"""The verbs of the memory: teach, ask and forget, and what keeps a store in order. None of them needs torch."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rhapsode.answering.calibration import Calibration
from rhapsode.answering.calibration_file import calibrate_with_file
from rhapsode.answering.choosing import make_encoder
from rhapsode.answering.config import ENCODERS, AskConfig
from rhapsode.answering.occurrences import find_in_run
from rhapsode.answering.pipeline import ask
from rhapsode.api.record import Record
from rhapsode.config import build_config
from rhapsode.errors import RhapsodeError, UserError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Encoder, Hit, Item, Row, Written
from rhapsode.memory.encoders.files import DamagedEncoderError
from rhapsode.memory.encoders.loading import load_encoder
from rhapsode.memory.items import read_items, sentence_item
from rhapsode.memory.store import SQLiteStore, recover
from rhapsode.memory.store.checks import check_string
from rhapsode.memory.store.database import FILE_NAME
from rhapsode.runfolder import RunFolder
from rhapsode.training.encoder import has_encoder, train_encoder

TAUGHT_AT_ONCE = 1_000
"""Memories of a file that are written in one transaction: other writers wait no longer than that takes."""
log = logging.getLogger("rhapsode.memory")


def open_memory(
    run: str | Path | dict[str, Any],
    *,
    read_only: bool = False,
    asking: bool = False,
    encode: bool = True,
    reencode: bool = False,
    encoder: str | Encoder | None = None,
) -> "Memory":
    """Open what a run was taught.

    Args:
        run: the folder of a run, or what `train` returned.
        read_only: write nothing, as in a folder that cannot be written.
        asking: only ask and look: a store that is there is opened for reading, which needs neither a writable folder
            nor free space, and a calibration is kept where it can be.
        encode: without it no encoder is loaded: enough to list, export, check and forget, even if it is damaged.
        reencode: make the vectors of all rows anew, as after the encoder has changed.
        encoder: what turns texts into vectors, in place of RUN/encoder: `static` or `state`, trained anew; a folder
            of sentence-transformers; or any `Encoder`, such as a `CallableEncoder`, which has to be given every time.
            Another one than the rows' needs `reencode`, and is then kept as RUN/encoder.

    Raises:
        UserError: if there is no run or no such encoder; if the rows were encoded by another encoder, and `reencode`
            is false.
        StateError: if the store is damaged or was written by a newer version.
    """
    folder = _folder_of(run)
    read_only = read_only or (asking and (folder.memory / FILE_NAME).exists())
    memory = Memory(folder, read_only=read_only, encode=encode, reencode=reencode, encoder=encoder)
    memory.keeps_calibration = asking or not read_only
    return memory


def recover_memory(run: str | Path | dict[str, Any]) -> Record:
    """Copy all memories that can still be read from a damaged store into a new one, under their ids.

    No other process may have the store open.

    Returns:
        `rows`, how many were copied; `unreadable`, ids at which the damage was met, some of which may have been
        forgotten before; `damaged`, where the damaged file is now. It may hold forgotten memories: nothing counts as
        erased until it is deleted.

    Raises:
        UserError: if there is no run, or it was taught nothing.
        StateError: if nothing can be read.
    """
    folder = _folder_of(run)
    recovery = recover(folder.memory)
    return Record(
        run=str(folder.path), rows=recovery.rows, unreadable=recovery.unreadable, damaged=str(recovery.damaged)
    )


def _folder_of(run: str | Path | dict[str, Any]) -> RunFolder:
    return RunFolder(run["run"] if isinstance(run, dict) else run).open()


def open_where_possible(folder: RunFolder) -> "Memory":
    """Open for writing, or for reading where the folder cannot be written, which the log `rhapsode.memory` says."""
    place = folder.memory if folder.memory.exists() else folder.path
    read_only = not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    if read_only:
        log.warning("%s cannot be written: what was taught is only read.", place)
    return Memory(folder, read_only=read_only)


class Memory:
    """What a run was taught: durable rows in RUN/memory, found by their words and by their meaning."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        read_only: bool = False,
        encode: bool = True,
        reencode: bool = False,
        encoder: str | Encoder | None = None,
    ) -> None:
        """Open the store; see `open_memory`."""
        self.folder = folder
        self.keeps_calibration = not read_only
        found = _find_encoder(folder, encoder, read_only, anew=reencode) if encode or reencode else None
        self._encoder = found
        self.store = SQLiteStore.open(folder.memory, None if reencode else found, read_only=read_only)
        if reencode:
            assert found is not None
            try:
                self.store.reencode(found)
                # last, since an encoder may turn out to be unusable; a kill in between leaves rows that are refused
                # and can be encoded again.
                if encoder is not None:
                    found.save(folder.encoder)
            except BaseException:
                self.store.close()
                raise

    @property
    def encoder(self) -> Encoder:
        """What turns texts into vectors."""
        assert self._encoder is not None, "a memory that was opened with encode=False"
        return self._encoder

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store. What was taught is on disk already."""
        self.store.close()

    def teach(
        self,
        texts: str | Sequence[str] = (),
        *,
        file: str | Path | None = None,
        key: str | None = None,
        source: str | None = None,
        space: str = "default",
        metadata: dict[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Record:
        """Write texts, durably: they are on disk when this returns.

        Texts are written all or none. A file is checked as a whole and then written a thousand memories at a time, so
        that other writers need not wait: what a kill leaves is whole memories, and teaching it again writes the rest.

        Args:
            texts: one or more; each becomes one memory.
            file: a file instead: lines of key TAB text, or text that is cut into paragraphs.
            key: what a single text is the value of; a new text under the same key takes the place of the old one.
            source: a label to find or forget them by.
            space: memories of one space never answer in another.
            metadata: JSON values by name, to filter searches by.
            progress: called with how many memories of a file are written, and how many there are.

        Returns:
            `ids`, one a memory, in order; `created`, whether each is new (the same text under the same key is written
            once); `superseded`, the id each took the place of, or None; and `ms`.

        Raises:
            UserError: if a text is empty, too long or not text, or there is nothing to write.
        """
        began = time.perf_counter()
        texts = [texts] if isinstance(texts, str) else list(texts)
        if bool(texts) == (file is not None):
            raise UserError("TEXT must be given, or --file with a file of facts, and not both.")
        if key is not None and len(texts) != 1:
            raise UserError(f"--key must come with a single TEXT; got {len(texts)}.")
        if key is not None:
            check_string(key, "--key", StoreConfig().max_text_bytes)
        if file is not None:
            items = read_items(file, source, space)
            if not items:
                raise UserError(f"--file must hold a text to remember; got {file}, which holds none.")
        else:
            items = [sentence_item(text, key, source, space) for text in texts]
        if metadata:
            items = [replace(item, metadata=metadata) for item in items]
        written = self.store.write(items) if file is None else self._write_parts(items, progress)
        return Record(
            run=str(self.folder.path),
            ids=written.ids,
            created=written.created,
            superseded=written.superseded,
            space=space,
            ms=_since(began),
        )

    def _write_parts(self, items: list[Item], progress: Callable[[int, int], None] | None) -> Written:
        self.store.check(items)
        written = Written([], [], [])
        for start in range(0, len(items), TAUGHT_AT_ONCE):
            part = self.store.write(items[start : start + TAUGHT_AT_ONCE])
            written.ids.extend(part.ids)
            written.created.extend(part.created)
            written.superseded.extend(part.superseded)
            if progress is not None:
                progress(len(written.ids), len(items))
        return written

    def ask(
        self,
        question: str,
        *,
        k: int = 5,
        min_confidence: float | None = None,
        space: str = "default",
        where: dict[str, Any] | None = None,
    ) -> Record:
        """Answer from what was taught, or abstain.

        Args:
            k: sources to return.
            min_confidence: answer from this confidence on, in place of the calibrated threshold.
            space: only its memories can answer.
            where: only memories with this metadata can answer, as in `search`; no other has a part in the answer, its
                confidence or its sources. The threshold stays that of the whole space.

        Returns:
            `answer` (None where it abstains), `confidence`, `abstained`, `sources` (each `id`, `text`, `score`, `key`,
            `source`, `used`), `threshold`, `threshold_from` (`given`, `store` or `shipped`), `calibrated`, `ms`.

        Raises:
            UserError: if the question is blank, `k` is below 1, `min_confidence` is outside [0, 1], the space does not
                exist, or `where` is no JSON.
        """
        began = time.perf_counter()
        config = build_config(AskConfig, {}, "ask")
        calibration = None if min_confidence is not None else self._calibration(space, config)
        answer = ask(self.store, question, k, min_confidence, space, calibration, config, where)
        return Record(run=str(self.folder.path), question=question, **{**answer.as_dict(), "ms": _since(began)})

    def _calibration(self, space: str, config: AskConfig) -> Calibration:
        path = self.folder.memory / "calibration.json"
        return calibrate_with_file(
            self.store, path, self.encoder.fingerprint, space, config, read_only=not self.keeps_calibration
        )

    def forget(
        self,
        ids: int | Sequence[int] = (),
        *,
        match: str | None = None,
        source: str | None = None,
        key: str | None = None,
        space: str | None = None,
        all_versions: bool = False,
        dry_run: bool = False,
        occurrences: bool = True,
    ) -> Record:
        """Erase memories for good: their text is afterwards in no file of the store.

        Args:
            ids: memories by id.
            match: or those that hold this text.
            source: or those taught with this label, now or before.
            key: or all versions of this key.
            space: with `match`, `source` or `key`: only in this space.
            all_versions: with them, every other version of their keys; otherwise an older one answers again.
            dry_run: find them and erase nothing.
            occurrences: look for the texts in the run's own text.

        Returns:
            `ids`, `texts`, `erased`, `pending` (True where a reader held the files: it is finished at the next opening
            for writing), `restored` (the `id` and `text` of each older version that answers again), `ms` of all that;
            `elsewhere` (how many of the texts stand in the run's training, validation and calibration text, which is
            no memory and is not touched), `elsewhere_ms`, and `elsewhere_problem`: None, or why `elsewhere` is None.

        Raises:
            UserError: if an id is unknown, or not exactly one way to choose is used.
        """
        began = time.perf_counter()
        rows = self.find(ids, match=match, source=source, key=key, space=space, all_versions=all_versions)
        erased = pending = False
        chosen = [row.id for row in rows]
        if dry_run:
            restored = self.store.restored_without(chosen)
        elif rows:
            done = self.store.forget(chosen)
            erased, pending, restored = done.erased, done.pending, self.store.get(done.restored)
        else:
            restored = []
        return Record(
            run=str(self.folder.path),
            ids=chosen,
            texts=[row.text for row in rows],
            erased=erased,
            pending=pending,
            restored=[{"id": row.id, "text": row.text} for row in restored],
            dry_run=dry_run,
            ms=_since(began),
            **(self._find_elsewhere(rows) if occurrences else {}),
        )

    def _find_elsewhere(self, rows: list[Row]) -> dict[str, Any]:
        began = time.perf_counter()
        found, problem = None, None
        try:
            found = find_in_run(self.folder, [row.text for row in rows])
        except RhapsodeError as error:
            # what was to be forgotten is forgotten, whatever has become of the text beside it.
            problem = str(error)
        return {"elsewhere": found, "elsewhere_problem": problem, "elsewhere_ms": _since(began)}

    def find(
        self,
        ids: int | Sequence[int] = (),
        *,
        match: str | None = None,
        source: str | None = None,
        key: str | None = None,
        space: str | None = None,
        all_versions: bool = False,
    ) -> list[Row]:
        """Return the memories that `forget` would erase."""
        ids = [ids] if isinstance(ids, int) else list(dict.fromkeys(ids))
        if sum([bool(ids), match is not None, source is not None, key is not None]) != 1:
            raise UserError("ID must be given, or --match or --source or --key, and only one of them.")
        if ids and space is not None:
            raise UserError(
                f"--space must come with --match, --source or --key; got ID. An id needs no space: {ids[0]}."
            )
        if ids:
            rows = self.store.get(ids)
        elif match is not None:
            rows = self.store.match(match, space)
        elif key is not None:
            rows = self.store.versions(key, space)
        else:
            rows = list(self.store.rows(space, source=source))
        return self.store.with_versions([row.id for row in rows]) if all_versions else rows

    def show(self, row_id: int) -> Record:
        """Return all that is known about one memory, and `versions`, the ids under its key, in the order of ids.

        Raises:
            UserError: if there is none with this id.
        """
        (row,) = self.store.get([row_id])
        return Record(**asdict(row), versions=[other.id for other in self.store.with_versions([row_id])])

    def search(
        self,
        query: str,
        *,
        k: int = 5,
        space: str = "default",
        where: dict[str, Any] | None = None,
        mode: str = "hybrid",
    ) -> list[Hit]:
        """Return the k memories nearest to a query, without judging whether they answer it."""
        return self.store.search(query, k, space, where=where, mode=mode)

    def rows(
        self, *, space: str | None = None, source: str | None = None, where: dict[str, Any] | None = None
    ) -> Iterator[Row]:
        """Yield what was taught in the order of its ids, superseded versions too."""
        return self.store.rows(space=space, source=source, where=where)

    def stats(self) -> Record:
        """Return how much is stored, where, and in what state."""
        return Record(run=str(self.folder.path), **asdict(self.store.stats()))

    def verify(self) -> Record:
        """Return `problems` of the store, none if it is sound."""
        problems = list(self.store.verify())
        return Record(run=str(self.folder.path), sound=not problems, problems=problems)

    def rebuild(self) -> Record:
        """Make the index anew from the rows."""
        began = time.perf_counter()
        self.store.rebuild()
        return Record(run=str(self.folder.path), rows=self.store.stats().rows, ms=_since(began))

    def export_file(self, path: str | Path) -> Record:
        """Write every memory to a file of JSON lines; `import_file` reads it."""
        return Record(run=str(self.folder.path), file=str(path), rows=self.store.export(path))

    def import_file(self, path: str | Path) -> Record:
        """Add the memories of a file that `export_file` wrote, all or none; they get new ids.

        Returns:
            `rows` in the file, how many of them were `created`, and how many `superseded` an older text.
        """
        began = time.perf_counter()
        written = self.store.import_(path)
        return Record(
            run=str(self.folder.path),
            file=str(path),
            rows=len(written.ids),
            created=sum(written.created),
            superseded=sum(old is not None for old in written.superseded),
            ms=_since(began),
        )

    def compact(self) -> Record:
        """Give the space of erased rows back to the disk."""
        began = time.perf_counter()
        self.store.compact()
        return Record(run=str(self.folder.path), rows=self.store.stats().rows, ms=_since(began))


def _find_encoder(folder: RunFolder, encoder: str | Encoder | None, read_only: bool, *, anew: bool) -> Encoder:
    if isinstance(encoder, str):
        return make_encoder(folder, encoder)
    if encoder is not None:
        return encoder
    # a run that was stopped before it had one, or made by hand.
    if not has_encoder(folder) and not read_only:
        return train_encoder(folder)
    try:
        return load_encoder(folder.encoder, ENCODERS)
    except DamagedEncoderError:
        if not anew:
            raise
        log.warning("%s is damaged, and the default encoder is trained anew in its place.", folder.encoder)
        return train_encoder(folder)


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 3)

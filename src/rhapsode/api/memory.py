"""The verbs of the memory: teach, ask and forget, and what keeps a store in order. None of them needs torch."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rhapsode.answering.config import ENCODERS, AskConfig
from rhapsode.answering.occurrences import find_in_run
from rhapsode.answering.pipeline import ask
from rhapsode.api.record import Record
from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.memory.contracts import Encoder, Hit, Row
from rhapsode.memory.encoders.loading import load_encoder
from rhapsode.memory.items import read_items, sentence_item
from rhapsode.memory.store import SQLiteStore
from rhapsode.runfolder import RunFolder
from rhapsode.training.encoder import has_encoder, train_encoder


def open_memory(run: str | Path | dict[str, Any], *, read_only: bool = False, reencode: bool = False) -> "Memory":
    """Open what a run was taught.

    Args:
        run: the folder of a run, or what `train` returned.
        read_only: write nothing, as in a folder that cannot be written.
        reencode: make the vectors of all rows anew, as after the encoder has changed.

    Raises:
        UserError: if there is no run; if the rows were encoded by another encoder, and `reencode` is false.
        StateError: if the store is damaged or was written by a newer version.
    """
    folder = RunFolder(run["run"] if isinstance(run, dict) else run).open()
    return Memory(folder, read_only=read_only, reencode=reencode)


class Memory:
    """What a run was taught: durable rows in RUN/memory, found by their words and by their meaning."""

    def __init__(self, folder: RunFolder, *, read_only: bool = False, reencode: bool = False) -> None:
        """Open the store; see `open_memory`."""
        self.folder = folder
        # a run that was stopped before it had one, or made by hand.
        usable = has_encoder(folder) or read_only
        self.encoder: Encoder = load_encoder(folder.encoder, ENCODERS) if usable else train_encoder(folder)
        self.store = SQLiteStore.open(folder.memory, None if reencode else self.encoder, read_only=read_only)
        if reencode:
            self.store.reencode(self.encoder)

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
    ) -> Record:
        """Write texts, durably: they are on disk when this returns.

        Args:
            texts: one or more; each becomes one memory.
            file: a file instead: lines of key TAB text, or text that is cut into paragraphs.
            key: what a single text is the value of; a new text under the same key takes the place of the old one.
            source: a label to find or forget them by.
            space: memories of one space never answer in another.
            metadata: JSON values by name, to filter searches by.

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
        if file is not None:
            items = read_items(file, source, space)
        else:
            items = [sentence_item(text, key, source, space) for text in texts]
        if metadata:
            items = [replace(item, metadata=metadata) for item in items]
        written = self.store.write(items)
        return Record(
            run=str(self.folder.path),
            ids=list(written.ids),
            created=list(written.created),
            superseded=list(written.superseded),
            space=space,
            ms=_since(began),
        )

    def ask(self, question: str, *, k: int = 5, min_confidence: float | None = None, space: str = "default") -> Record:
        """Answer from what was taught, or abstain.

        Returns:
            `answer` (None where it abstains), `confidence`, `abstained`, `sources` (each `id`, `text`, `score`, `key`,
            `source`, `used`), `threshold`, `calibrated`, `ms`.

        Raises:
            UserError: if the question is blank, `k` is below 1, `min_confidence` is outside [0, 1], or the space does
                not exist.
        """
        answer = ask(self.store, question, k, min_confidence, space, config=build_config(AskConfig, {}, "ask"))
        return Record(run=str(self.folder.path), question=question, **answer.as_dict())

    def forget(
        self,
        ids: int | Sequence[int] = (),
        *,
        match: str | None = None,
        source: str | None = None,
        space: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Erase memories for good: their text is afterwards in no file of the store.

        Args:
            ids: memories by id.
            match: or those that hold this text.
            source: or those taught with this label.
            space: with `match` or `source`: only in this space.
            dry_run: find them and erase nothing.

        Returns:
            `ids`, `texts`, `erased` (False where a reader held the files: it is finished at the next opening),
            `elsewhere` (how often the texts stand in the run's training, validation and calibration text, which is
            no memory and is not touched; None where that text cannot be read any more), `ms`.

        Raises:
            UserError: if an id is unknown, or not exactly one way to choose is used.
        """
        began = time.perf_counter()
        rows = self.find(ids, match=match, source=source, space=space)
        elsewhere = find_in_run(self.folder, [row.text for row in rows])
        erased = False
        if rows and not dry_run:
            erased = self.store.forget([row.id for row in rows]).erased
        return Record(
            run=str(self.folder.path),
            ids=[row.id for row in rows],
            texts=[row.text for row in rows],
            erased=erased,
            dry_run=dry_run,
            elsewhere=elsewhere,
            ms=_since(began),
        )

    def find(
        self,
        ids: int | Sequence[int] = (),
        *,
        match: str | None = None,
        source: str | None = None,
        space: str | None = None,
    ) -> list[Row]:
        """Return the memories that `forget` would erase."""
        ids = [ids] if isinstance(ids, int) else list(ids)
        if sum([bool(ids), match is not None, source is not None]) != 1:
            raise UserError("ID must be given, or --match or --source, and only one of them.")
        if ids:
            return self.store.get(ids)
        rows = self.store.match(match) if match is not None else list(self.store.rows(source=source))
        return [row for row in rows if space is None or row.space == space]

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
        """Add the memories of a file that `export_file` wrote, all or none; they get new ids."""
        began = time.perf_counter()
        written = self.store.import_(path)
        return Record(run=str(self.folder.path), file=str(path), rows=len(written.ids), ms=_since(began))

    def compact(self) -> Record:
        """Give the space of erased rows back to the disk."""
        began = time.perf_counter()
        self.store.compact()
        return Record(run=str(self.folder.path), rows=self.store.stats().rows, ms=_since(began))


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1e3, 3)

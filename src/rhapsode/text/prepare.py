"""From split text to ids, in memory or on disk, on all cores.

The text flows: one thread reads and cuts it, several encode (both libraries leave Python's lock while they work),
and the results are taken in order, so that the output does not depend on the number of workers.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhapsode.errors import UserError
from rhapsode.runfolder import sync_folder
from rhapsode.text.assignment import PARTS
from rhapsode.text.cores import num_cores
from rhapsode.text.pieces import cut_pieces
from rhapsode.text.shards import (
    TOKENIZER,
    Corpus,
    TokenArray,
    TokenWriter,
    is_prepared,
    load_token_array,
    save_corpus_meta,
)
from rhapsode.text.sources import open_readers
from rhapsode.text.split import Stream, TextSplit
from rhapsode.text.tokenizer import Tokenizer

# called with the bytes of text done and in all.
Progress = Callable[[int, int], None]
# enough text that handing it to a thread costs nothing beside encoding it.
_TASK_CHARS = 1 << 18


@dataclass(frozen=True)
class _Piece:
    text: str
    begins: bool
    ends: bool
    starts_stretch: bool


@dataclass(frozen=True)
class _Encoded:
    ids: np.ndarray
    starts: np.ndarray
    num_bytes: int


def encode_split(
    split: TextSplit, tokenizer: Tokenizer, progress: Progress | None = None, workers: int | None = None
) -> Corpus:
    """Encode all parts into memory. For text of up to a few hundred megabytes; see `prepare` for more.

    Args:
        split: the text.
        tokenizer: how to encode it.
        progress: called with the bytes of text done and in all.
        workers: threads; default: one a core.

    Raises:
        UserError: if `workers` is less than 1.
        StateError: if the text has changed since the split was opened.
    """
    done = _Counter(split, progress)
    arrays = {}
    for part in PARTS:
        encoded = []
        for piece in _encode(split.streams(part), tokenizer, workers):
            encoded.append(piece)
            done.add(piece.num_bytes)
        arrays[part] = _join(encoded, tokenizer)
    info = _info(split, tokenizer, {part: len(arrays[part]) for part in PARTS})
    train, validation, calibration = (arrays[part] for part in PARTS)
    return Corpus(tokenizer, train, validation, calibration, split.data_hash, info)


def prepare(
    split: TextSplit,
    tokenizer: Tokenizer,
    out: str | Path,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Corpus:
    """Encode all parts into the folder `out`, once, so that later runs start at once.

    Memory stays flat (about 80 MB in all) whatever the size of the text. The files are the same for any number of
    workers. An interrupted call leaves a folder that is not prepared, and that the next call may write to.

    Args:
        split: the text.
        tokenizer: how to encode it; saved with it.
        out: a folder that is new, empty, or left by an interrupted call.
        progress: called with the bytes of text done and in all.
        workers: threads; default: one a core.

    Returns:
        The corpus, its ids mapped from the files.

    Raises:
        UserError: if `out` holds something else or cannot be made, or `workers` is less than 1.
        StateError: if the disk is full, or the text has changed since the split was opened.
    """
    folder = Path(out)
    _make_folder(folder)
    done = _Counter(split, progress)
    num_ids = {}
    try:
        for part in PARTS:
            with TokenWriter(folder / part, tokenizer.dtype) as writer:
                for piece in _encode(split.streams(part), tokenizer, workers):
                    writer.append(piece.ids, piece.starts, piece.num_bytes)
                    done.add(piece.num_bytes)
            num_ids[part] = writer.num_ids
        sync_folder(folder)
        info = _info(split, tokenizer, num_ids)
        save_corpus_meta(folder, tokenizer, split.data_hash, info)
    except BaseException:
        # half of the ids are of no use to anyone.
        for part in PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
        (folder / TOKENIZER).unlink(missing_ok=True)
        raise
    train, validation, calibration = (load_token_array(folder / part, verify=False) for part in PARTS)
    return Corpus(tokenizer, train, validation, calibration, split.data_hash, info)


def encode_sources(sources: Sequence[str], tokenizer: Tokenizer) -> TokenArray:
    """Encode whole sources into memory without splitting them, as evaluation on other text wants it.

    Raises:
        UserError: if a source is missing, empty or not text.
    """
    streams = (
        Stream(raw.name, True, True, iter(raw.blocks)) for reader in open_readers(sources) for raw in reader.documents()
    )
    tokens = _join(list(_encode(streams, tokenizer, None)), tokenizer)
    if tokens.num_bytes == 0:
        raise UserError(f"SOURCE must hold text; got {', '.join(sources)}, which is empty. Give some text.")
    return tokens


def _make_folder(folder: Path) -> None:
    if is_prepared(folder):
        raise UserError(
            f"--out must name a new folder; got {folder}, which is prepared already. Use it, or choose another."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = {path.name for path in folder.iterdir()} - {*PARTS, TOKENIZER}
        if strangers:
            raise UserError(f"--out must name a new or empty folder; got {folder}, which holds {min(strangers)}.")
        probe = folder / TOKENIZER
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out must name a writable folder; got {folder}: {error.strerror}.") from None


def _encode(streams: Iterable[Stream], tokenizer: Tokenizer, workers: int | None) -> Iterator[_Encoded]:
    """Yield encoded stretches in the order of the text, keeping a few of them in flight."""
    count = num_cores() if workers is None else workers
    if count < 1:
        raise UserError(f"--workers must be at least 1; got {count}.")
    waiting: deque[Future[_Encoded]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for task in _tasks(streams):
                waiting.append(pool.submit(_encode_task, task, tokenizer))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(streams: Iterable[Stream]) -> Iterator[list[_Piece]]:
    """Group pieces, so that a million short documents do not mean a million tasks."""
    task: list[_Piece] = []
    size = 0
    for piece in _pieces(streams):
        task.append(piece)
        size += len(piece.text) + 16
        if size >= _TASK_CHARS:
            yield task
            task, size = [], 0
    if task:
        yield task


def _pieces(streams: Iterable[Stream]) -> Iterator[_Piece]:
    for stream in streams:
        first, held = True, None
        for text in cut_pieces(stream.blocks):
            if held is not None:
                yield _Piece(held, first and stream.begins, False, first)
                first = False
            held = text
        if held is not None:
            yield _Piece(held, first and stream.begins, stream.ends, first)


def _encode_task(task: list[_Piece], tokenizer: Tokenizer) -> _Encoded:
    bos = np.array([tokenizer.bos_id], dtype=tokenizer.dtype)
    eos = np.array([tokenizer.eos_id], dtype=tokenizer.dtype)
    arrays: list[np.ndarray] = []
    starts: list[int] = []
    num_ids = num_bytes = 0
    for piece in task:
        if piece.starts_stretch:
            starts.append(num_ids)
        ids = tokenizer.encode(piece.text)
        arrays += [*([bos] if piece.begins else []), ids, *([eos] if piece.ends else [])]
        num_ids += len(ids) + piece.begins + piece.ends
        num_bytes += len(piece.text) if piece.text.isascii() else len(piece.text.encode())
    return _Encoded(np.concatenate(arrays), np.array(starts, dtype=np.int64), num_bytes)


def _join(encoded: list[_Encoded], tokenizer: Tokenizer) -> TokenArray:
    if not encoded:
        return TokenArray(np.empty(0, dtype=tokenizer.dtype), np.empty(0, dtype=np.int64), 0)
    offsets = np.cumsum([0] + [len(piece.ids) for piece in encoded])
    starts = [piece.starts + offset for piece, offset in zip(encoded, offsets, strict=False)]
    ids = np.concatenate([piece.ids for piece in encoded])
    return TokenArray(ids, np.concatenate(starts), sum(piece.num_bytes for piece in encoded))


def _info(split: TextSplit, tokenizer: Tokenizer, num_ids: dict[Any, int]) -> dict[str, Any]:
    kind = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
    return {**split.info(), "tokenizer": kind, "num_tokens": dict(num_ids)}


class _Counter:
    """Adds up bytes and reports them."""

    def __init__(self, split: TextSplit, progress: Progress | None) -> None:
        self._total = sum(split.num_bytes.values())
        self._done = 0
        self._progress = progress

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)

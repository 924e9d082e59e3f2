"""Encoded text on disk: raw ids that are mapped into memory, with a checksum for every stretch.

FOLDER/tokenizer.json                       the tokenizer
FOLDER/{train,validation,calibration}/      one token array each:
    ids.bin       little-endian uint16 or uint32
    starts.bin    little-endian int64: where documents begin
    meta.json     counts, and the SHA-256 of every 64 MiB of both files
FOLDER/meta.json                            written last: a folder without it is not prepared
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import read_json, sync_folder, write_json
from rhapsode.text.assignment import PARTS
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer

FORMAT_VERSION = 1
CHECKED_BYTES = 1 << 26
META, TOKENIZER, IDS, STARTS = "meta.json", "tokenizer.json", "ids.bin", "starts.bin"


@dataclass(frozen=True)
class TokenArray:
    """Encoded documents, end to end, each as bos + ids + eos.

    Where one document was split by position, only its first stretch has a bos and only its last an eos.

    Attributes:
        ids: uint16 or uint32 (N,), in memory or mapped from a file; not to be written to.
        doc_starts: int64 (D,), sorted, where each document (or stretch of one) begins in `ids`.
        num_bytes: bytes of UTF-8 text behind the ids, for bits per byte.
    """

    ids: UInt[np.ndarray, " N"]
    doc_starts: Int64[np.ndarray, " D"]
    num_bytes: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """A split of text, encoded. `info` is what a run should save about it."""

    tokenizer: Tokenizer
    train: TokenArray
    validation: TokenArray
    calibration: TokenArray
    data_hash: str
    info: dict[str, Any]


class CheckedWriter:
    """A file that is written front to back, hashing every 64 MiB.

    Raises:
        StateError: if the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._checksums: list[str] = []
        self._digest = hashlib.sha256()
        try:
            # unbuffered: what is written is large, and a full disk shows at once rather than on closing.
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _not_written(path, error) from None

    def write(self, values: np.ndarray) -> None:
        """Append an array as it lies in memory."""
        data = memoryview(np.ascontiguousarray(values).view(np.uint8).data)
        while data:
            room = CHECKED_BYTES - self.size % CHECKED_BYTES
            try:
                written = self._file.write(data[:room])
            except OSError as error:
                raise _not_written(self.path, error) from None
            self._digest.update(data[:written])
            self.size += written
            if self.size % CHECKED_BYTES == 0:
                self._checksums.append(self._digest.hexdigest())
                self._digest = hashlib.sha256()
            data = data[written:]

    def close(self) -> dict[str, Any]:
        """Force the file to disk and return its size and checksums."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _not_written(self.path, error) from None
        if self.size % CHECKED_BYTES:
            self._checksums.append(self._digest.hexdigest())
        return {"size_bytes": self.size, "sha256": self._checksums}

    def abandon(self) -> None:
        """Close the file as it is, after a failure."""
        self._file.close()


class TokenWriter:
    """Writes one token array in bounded memory. Leaving the block without an error completes it."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        self._folder = folder
        self._dtype = dtype.newbyteorder("<")
        self.num_ids = self.num_documents = self.num_bytes = 0

    def __enter__(self) -> "TokenWriter":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / META).unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(self._folder, error) from None
        self._ids = CheckedWriter(self._folder / IDS)
        self._starts = CheckedWriter(self._folder / STARTS)
        return self

    def append(self, ids: np.ndarray, starts: np.ndarray, num_bytes: int) -> None:
        """Add `ids`, in which documents begin at `starts`, counted from the first of `ids`."""
        self._ids.write(ids.astype(self._dtype, copy=False))
        self._starts.write((starts + self.num_ids).astype("<i8", copy=False))
        self.num_ids += len(ids)
        self.num_documents += len(starts)
        self.num_bytes += num_bytes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._complete()
        finally:
            self._ids.abandon()
            self._starts.abandon()

    def _complete(self) -> None:
        meta = {
            "format_version": FORMAT_VERSION,
            "holds": "tokens",
            "dtype": self._dtype.name,
            "num_ids": self.num_ids,
            "num_documents": self.num_documents,
            "num_bytes": self.num_bytes,
            "files": {IDS: self._ids.close(), STARTS: self._starts.close()},
        }
        sync_folder(self._folder)
        write_json(self._folder / META, meta)


def save_token_array(folder: str | Path, tokens: TokenArray) -> None:
    """Write `tokens` into `folder`, which is made if needed.

    Raises:
        StateError: if it cannot be written.
    """
    with TokenWriter(Path(folder), tokens.ids.dtype) as writer:
        writer.append(tokens.ids, tokens.doc_starts, tokens.num_bytes)


def load_token_array(folder: str | Path, *, verify: bool = True) -> TokenArray:
    """Map what `save_token_array` wrote.

    Args:
        folder: of one token array.
        verify: read every byte once and compare checksums (about 1 GB a second); sizes are compared in any case.

    Raises:
        StateError: naming the file that is missing, truncated or changed.
    """
    folder = Path(folder)
    meta = _read_meta(folder, "tokens")
    try:
        dtype: np.dtype[Any] = np.dtype({"uint16": "<u2", "uint32": "<u4"}[meta["dtype"]])
        num_ids, num_documents, num_bytes = (int(meta[key]) for key in ("num_ids", "num_documents", "num_bytes"))
        expected = {IDS: num_ids * dtype.itemsize, STARTS: num_documents * 8}
        for name, size in expected.items():
            _check_file(folder / name, size, meta["files"][name], verify)
    except (KeyError, TypeError, ValueError):
        raise StateError(f"{folder / META} must describe tokens, but it is damaged. Prepare the data again.") from None
    return TokenArray(_map(folder / IDS, dtype), _map(folder / STARTS, np.dtype("<i8")), num_bytes)


def save_corpus_meta(folder: Path, tokenizer: Tokenizer, data_hash: str, info: dict[str, Any]) -> None:
    """Complete a prepared folder, whose token arrays are there already."""
    tokenizer.save(folder / TOKENIZER)
    parts = {part: _hash_small(folder / part / META) for part in PARTS}
    meta = {"format_version": FORMAT_VERSION, "holds": "corpus", "tokenizer": tokenizer.fingerprint}
    write_json(folder / META, {**meta, "data_hash": data_hash, "parts": parts, "info": info})


def is_prepared(path: str | Path) -> bool:
    """Return whether `path` is a folder that `prepare` completed. Reads only its meta.json."""
    meta = Path(path) / META
    try:
        return meta.is_file() and read_json(meta).get("holds") == "corpus"
    except StateError:
        return False


def load_corpus(path: str | Path, *, verify: bool = True) -> Corpus:
    """Open a prepared folder. The ids stay on disk until they are used.

    Raises:
        UserError: if `path` is not a prepared folder.
        StateError: naming the file that is missing, truncated or changed.
    """
    folder = Path(path)
    if not (folder / META).is_file():
        raise UserError(
            f"--data must name a prepared folder; got {folder}, which has no {META}. "
            f"Make one with: rhapsode prepare SOURCE --out {folder}"
        )
    meta = _read_meta(folder, "corpus")
    tokenizer = load_tokenizer(folder / TOKENIZER)
    hashes, info, data_hash = meta.get("parts"), meta.get("info"), meta.get("data_hash")
    if not isinstance(hashes, dict) or not isinstance(info, dict) or not isinstance(data_hash, str):
        raise StateError(f"{folder / META} must describe a corpus, but it is damaged. Prepare the data again.")
    if tokenizer.fingerprint != meta.get("tokenizer"):
        raise _damaged(folder / TOKENIZER)
    parts = {}
    for part in PARTS:
        if _hash_small(folder / part / META) != hashes.get(part):
            raise _damaged(folder / part / META)
        parts[part] = load_token_array(folder / part, verify=verify)
    return Corpus(tokenizer, parts["train"], parts["validation"], parts["calibration"], data_hash, info)


def _read_meta(folder: Path, holds: str) -> dict[str, Any]:
    meta = read_json(folder / META)
    version = meta.get("format_version")
    if meta.get("holds") != holds:
        raise StateError(f"{folder / META} must describe {holds}; got {meta.get('holds')!r}. Name another folder.")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StateError(
            f"{folder / META} has format version {version!r}, and this rhapsode reads up to {FORMAT_VERSION}. "
            "Install a newer rhapsode."
        )
    return meta


def _check_file(path: Path, size: int, written: dict[str, Any], verify: bool) -> None:
    try:
        found = path.stat().st_size
        if found != size or written["size_bytes"] != size:
            raise StateError(f"{path} must have {size} bytes; got {found}. Prepare the data again.")
        if verify:
            _check_contents(path, written["sha256"])
    except OSError as error:
        raise StateError(f"{path} must be readable; got: {error.strerror}. Prepare the data again.") from None


def _check_contents(path: Path, checksums: list[str]) -> None:
    with open(path, "rb") as file:
        for number, checksum in enumerate(checksums):
            digest = hashlib.sha256()
            for _ in range(CHECKED_BYTES >> 20):
                digest.update(file.read(1 << 20))
            if digest.hexdigest() != checksum:
                raise _damaged(path, f" after byte {number * CHECKED_BYTES}")
        if file.read(1):
            raise _damaged(path)


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    # an empty file cannot be mapped.
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    # a plain view: indexing a memmap object itself costs several times as much.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _hash_small(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StateError(f"{path} must be readable; got: {error.strerror}. Prepare the data again.") from None


def _damaged(path: Path, where: str = "") -> StateError:
    return StateError(f"{path} must be as it was written, but it was changed{where}. Prepare the data again.")


def _not_written(path: Path, error: OSError) -> StateError:
    return StateError(f"{path} must be writable; got: {error.strerror}. Free space or choose another folder.")

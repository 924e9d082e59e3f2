"""Train, validation and calibration text: split once, before any window is cut.

Validation chooses checkpoints; gates, thresholds and critics see calibration only.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from rhapsode.errors import StateError, UserError
from rhapsode.text.assignment import (
    NO_PART,
    PARTS,
    Part,
    assign_by_hash,
    position_bounds,
)
from rhapsode.text.config import CALIBRATION_SPLIT, DataConfig
from rhapsode.text.pieces import cut_pieces
from rhapsode.text.readers import Document, MemoryReader, RawDocument, Reader
from rhapsode.text.sources import open_readers

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Stream:
    """A document, or one part of it, that is read as it is used.

    `begins` and `ends` say whether it holds the document's beginning and end. `blocks` can be read once, before the
    next stream is asked for; a stream may be skipped.
    """

    name: str
    begins: bool
    ends: bool
    blocks: Iterator[str]


@dataclass(frozen=True)
class _Scan:
    """What the first pass keeps of each document: 32 bytes, and no text."""

    digests: np.ndarray
    sizes: np.ndarray
    chars: np.ndarray


def open_sources(sources: Sequence[str], config: DataConfig, setting: str = "SOURCE") -> "TextSplit":
    """Read `sources` once and split them. See `sources.open_readers` for what can be named, and `TextSplit`.

    Args:
        setting: how messages call the sources.

    Raises:
        UserError: if a source is missing, empty or not text, or there is too little text to split.
    """
    validation = None if config.val_file is None else open_readers([config.val_file], "--val-file")
    return TextSplit(open_readers(sources, setting), config, validation, list(sources), setting)


def split_documents(documents: Sequence[Document], config: DataConfig) -> "TextSplit":
    """Split documents that are in memory. Raises UserError as `open_sources` does."""
    validation = None if config.val_file is None else open_readers([config.val_file], "--val-file")
    return TextSplit([MemoryReader(documents)], config, validation, [document.name for document in documents])


class TextSplit:
    """Documents in three parts: train, validation (`val_split` of the bytes) and calibration (2 %).

    With three or more different documents whole documents are assigned, by a hash of their content and `split_seed`,
    so that order and names do not matter and copies of a document stay together. With fewer, each document is split
    by position: calibration, then train, then validation at the end, as nanoGPT has it. With a `val_file` validation is
    that file; documents of the sources that also stand in it are left out. Empty documents are left out too.

    Opening reads everything once for hashes and sizes; each use of a part reads it again, and a text that has changed
    meanwhile is an error. Memory: one block of text and 32 bytes a document.

    Attributes:
        num_documents: documents (or stretches of them) in each part.
        num_bytes: bytes of UTF-8 in each part.
        data_hash: SHA-256 over the contents in order and the settings of the split.

    Raises:
        UserError: if there is too little text to split.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        config: DataConfig,
        validation: Sequence[Reader] | None = None,
        names: Sequence[str] = (),
        setting: str = "SOURCE",
    ) -> None:
        self._config, self._setting = config, setting
        self._names = list(names)
        self._readers = list(readers)
        self._validation = None if validation is None else list(validation)
        self._fractions = (config.val_fraction, CALIBRATION_SPLIT)
        self._scan = _scan(self._readers)
        self._val_scan = None if self._validation is None else _scan(self._validation)
        if self._val_scan is not None and not (self._val_scan.sizes > 0).any():
            raise UserError(f"--val-file must hold text; got {config.val_file}, which is empty.")
        self._left_out = self._find_left_out()
        self._parts = self._assign()
        self.num_documents, self.num_bytes = self._count()
        self.data_hash = self._hash()

    @property
    def by_position(self) -> bool:
        """Whether documents were cut, rather than assigned whole."""
        return self._parts is None

    def streams(self, part: Part) -> Iterator[Stream]:
        """Yield the documents of a part, in the order of the sources, without holding their text.

        Raises:
            StateError: if the text is not what it was when the split was opened.
        """
        if part == "validation" and self._validation is not None and self._val_scan is not None:
            wanted = self._val_scan.sizes > 0
            for _, raw, blocks in _walk(self._validation, self._val_scan, wanted):
                yield Stream(raw.name, True, True, blocks)
        elif self._parts is None:
            for index, raw, blocks in _walk(self._readers, self._scan, ~self._left_out):
                num_chars = int(self._scan.chars[index])
                start, stop = position_bounds(num_chars, self._fractions)[part]
                if start < stop:
                    yield Stream(raw.name, start == 0, stop == num_chars, _between(blocks, start, stop))
        else:
            for _, raw, blocks in _walk(self._readers, self._scan, self._parts == PARTS.index(part)):
                yield Stream(raw.name, True, True, blocks)

    def documents(self, part: Part) -> Iterator[Document]:
        """Yield the documents of a part, each whole in memory."""
        for stream in self.streams(part):
            yield Document(stream.name, "".join(stream.blocks))

    def texts(self, part: Part) -> Iterator[str]:
        """Yield the text of a part in pieces of at most 262144 characters, as training a tokenizer wants it."""
        for stream in self.streams(part):
            yield from cut_pieces(stream.blocks)

    def info(self) -> dict[str, Any]:
        """Return what a run should save about its data, ready for JSON."""
        return {
            "sources": self._names,
            "split": "by position in each document" if self.by_position else "by content hash of whole documents",
            "val_split": self._config.val_fraction or None,
            "val_file": self._config.val_file,
            "calibration_split": CALIBRATION_SPLIT,
            "split_seed": self._config.split_seed,
            "num_documents": dict(self.num_documents),
            "num_bytes": dict(self.num_bytes),
            "num_left_out": int(self._left_out.sum()),
            "data_hash": self.data_hash,
        }

    def _find_left_out(self) -> np.ndarray:
        left_out = np.asarray(self._scan.sizes == 0)
        if left_out.all():
            raise UserError(f"{self._setting} must hold text; got only empty documents. Check the files.")
        if self._val_scan is not None:
            left_out |= np.isin(_as_keys(self._scan.digests), _as_keys(self._val_scan.digests))
            if left_out.all():
                raise UserError("--val-file must not be the only text; got a file that holds all the others.")
        return left_out

    def _assign(self) -> np.ndarray | None:
        kept = ~self._left_out
        _, first, copies = np.unique(_as_keys(self._scan.digests[kept]), return_index=True, return_inverse=True)
        if len(first) < 3:
            if (shortest := int(self._scan.chars[kept].min())) < 3:
                raise UserError(
                    f"{self._setting} must hold at least 3 characters in each of fewer than three documents; "
                    f"got {shortest}."
                )
            return None
        digests, sizes = self._scan.digests[kept][first], self._scan.sizes[kept][first]
        # copies of a document count as often as they occur.
        sizes = sizes * np.bincount(copies, minlength=len(first))
        parts = np.full(len(kept), NO_PART, dtype=np.int8)
        parts[kept] = assign_by_hash(digests, sizes, self._fractions, self._config.split_seed)[copies]
        return parts

    def _count(self) -> tuple[dict[Part, int], dict[Part, int]]:
        documents: dict[Part, int] = dict.fromkeys(PARTS, 0)
        sizes: dict[Part, int] = dict.fromkeys(PARTS, 0)
        if self._parts is not None:
            for index, part in enumerate(PARTS):
                documents[part] = int((self._parts == index).sum())
                sizes[part] = int(self._scan.sizes[self._parts == index].sum())
        else:
            for index, _, blocks in _walk(self._readers, self._scan, ~self._left_out):
                bounds = position_bounds(int(self._scan.chars[index]), self._fractions)
                for part, (start, stop) in bounds.items():
                    documents[part] += start < stop
                for part, size in _measure(blocks, bounds).items():
                    sizes[part] += size
        if self._val_scan is not None:
            documents["validation"] = int((self._val_scan.sizes > 0).sum())
            sizes["validation"] = int(self._val_scan.sizes.sum())
        return documents, sizes

    def _hash(self) -> str:
        settings = {
            "by_position": self.by_position,
            "split_seed": None if self.by_position else self._config.split_seed,
            "fractions": self._fractions,
            "num_documents": [len(self._scan.sizes), 0 if self._val_scan is None else len(self._val_scan.sizes)],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self._scan.digests.tobytes())
        if self._val_scan is not None:
            digest.update(self._val_scan.digests.tobytes())
        return digest.hexdigest()


def _scan(readers: Iterable[Reader]) -> _Scan:
    # packed: a list would take three times as much for millions of documents.
    digests, sizes, chars = bytearray(), array("q"), array("q")
    for reader in readers:
        for raw in reader.documents():
            digest, size, length = hashlib.sha256(), 0, 0
            for block in raw.blocks:
                data = block.encode()
                digest.update(data)
                size += len(data)
                length += len(block)
            digests += digest.digest()[:_DIGEST_BYTES]
            sizes.append(size)
            chars.append(length)
    table = np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)
    return _Scan(table, np.frombuffer(sizes.tobytes(), np.int64), np.frombuffer(chars.tobytes(), np.int64))


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """View digests (N, 16) as N values that can be sorted and compared."""
    return np.ascontiguousarray(digests).view([("high", ">u8"), ("low", ">u8")]).reshape(-1)


def _walk(
    readers: Iterable[Reader], scan: _Scan, wanted: np.ndarray
) -> Iterator[tuple[int, RawDocument, Iterator[str]]]:
    """Yield index, document and checked blocks of every wanted document."""
    index = count()
    for reader in readers:
        for raw in reader.documents():
            i = next(index)
            if i >= len(wanted):
                raise _changed(raw.name)
            if wanted[i]:
                yield i, raw, _checked(raw, scan.digests[i].tobytes())
    if next(index) != len(wanted):
        raise _changed("SOURCE")


def _checked(raw: RawDocument, expected: bytes) -> Iterator[str]:
    digest = hashlib.sha256()
    for block in raw.blocks:
        digest.update(block.encode())
        yield block
    if digest.digest()[:_DIGEST_BYTES] != expected:
        raise _changed(raw.name)


def _changed(name: str) -> StateError:
    return StateError(f"{name} must stay as it is while it is read, but it has changed. Start again.")


def _between(blocks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yield the characters from start to stop; the rest is read too, so that its hash is checked."""
    position = 0
    for block in blocks:
        cut = block[max(start - position, 0) : max(stop - position, 0)]
        position += len(block)
        if cut:
            yield cut


def _measure(blocks: Iterable[str], bounds: dict[Part, tuple[int, int]]) -> dict[Part, int]:
    sizes: dict[Part, int] = dict.fromkeys(bounds, 0)
    position = 0
    for block in blocks:
        for part, (start, stop) in bounds.items():
            sizes[part] += len(block[max(start - position, 0) : max(stop - position, 0)].encode())
        position += len(block)
    return sizes

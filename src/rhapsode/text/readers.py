"""Reading documents as streams of text blocks, so that no file has to fit in memory."""

import gzip
import json
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from rhapsode.errors import UserError

# small on purpose: blocks of a megabyte leave holes in the heap, and a process that reads 1 GB grows by 100 MB.
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Document:
    """One whole text and where it came from."""

    name: str
    text: str


@dataclass(frozen=True)
class RawDocument:
    """One text that has not been read yet. `blocks` can be read once, before the next document is asked for."""

    name: str
    blocks: Iterable[str]


@runtime_checkable
class Reader(Protocol):
    """Something that yields the same documents in the same order each time it is asked."""

    def documents(self) -> Iterator[RawDocument]:
        """Yield every document."""
        ...


class TextReader:
    """A file that is one document."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def documents(self) -> Iterator[RawDocument]:
        """Yield the file as one document. Raises UserError, when its blocks are read, if it is not UTF-8 text."""
        yield RawDocument(str(self.path), self._blocks())

    def _blocks(self) -> Iterator[str]:
        with open_bytes(self.path) as file:
            yield from decode_blocks(_whole_gzip(file, self.path), str(self.path))


class JsonlReader:
    """A file with one JSON object a line; the field `text` of each is a document."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def documents(self) -> Iterator[RawDocument]:
        """Yield a document for each line that is not blank.

        Raises:
            UserError: naming the file and the line, if a line is not a JSON object with a string `text`, is not
                UTF-8, or holds a lone surrogate.
        """
        with open_bytes(self.path) as file:
            offset = 0
            for number, line in enumerate(_lines(file, self.path), 1):
                if line.strip():
                    name = f"{self.path}:{number}"
                    yield RawDocument(name, self._blocks(line, number, offset))
                offset += len(line)

    def _blocks(self, line: bytes, number: int, offset: int) -> Iterator[str]:
        # a generator, so that lines of another part are not parsed.
        yield self._text(line, number, offset)

    def _text(self, line: bytes, number: int, offset: int) -> str:
        place = f"{self.path}, line {number},"
        try:
            # a byte order mark can only stand at the very beginning.
            value = json.loads(line.decode("utf-8-sig" if offset == 0 else "utf-8"))
        except UnicodeDecodeError as error:
            raise _not_utf8(str(self.path), offset + error.start) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} must hold one JSON object; got: {error}. Repair that line.") from None
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{place} must have a string under "text"; got {_short(value)}. Rename or add that field.')
        check_unicode(text, f'"text" in {self.path}, line {number},')
        return text


class StdinReader:
    """Standard input as one document, kept in a temporary file because it is read more than once."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def documents(self) -> Iterator[RawDocument]:
        """Yield standard input as one document."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
            weakref.finalize(self, self._file.close)
            while block := sys.stdin.buffer.read(BLOCK_BYTES):
                self._file.write(block)
        self._file.seek(0)
        yield RawDocument("-", decode_blocks(iter_blocks(self._file.read), "standard input"))


class MemoryReader:
    """Documents that are in memory already."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents

    def documents(self) -> Iterator[RawDocument]:
        """Yield every document. Raises UserError if one holds a lone surrogate."""
        for document in self._documents:
            check_unicode(document.text, f"document '{document.name}'")
            yield RawDocument(document.name, (document.text,))


def open_bytes(path: Path) -> BufferedIOBase:
    """Open a file, unpacking it if its name ends in .gz.

    Raises:
        UserError: if it cannot be opened.
    """
    try:
        return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} must be readable; got: {error.strerror}.") from None


def decode_blocks(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8 that is cut anywhere. A byte order mark at the beginning is dropped; line ends stay as they are.

    Raises:
        UserError: naming the byte, if the bytes are not UTF-8 or hold a NUL, the mark of a binary file.
    """
    carry, consumed = b"", 0
    for block in blocks:
        if (nul := block.find(0)) >= 0:
            offset = consumed + len(carry) + nul
            raise UserError(f"{name} must be text; got a binary file (a NUL at byte {offset}). Leave this file out.")
        data = carry + block
        try:
            text, carry = data.decode(), b""
        except UnicodeDecodeError as error:
            # a character that the end of the block has cut in two is finished by the next block.
            if error.reason != "unexpected end of data":
                raise _not_utf8(name, consumed + error.start) from None
            text, carry = data[: error.start].decode(), data[error.start :]
        yield text.removeprefix("\ufeff") if consumed == 0 else text
        consumed += len(data) - len(carry)
    if carry:
        raise _not_utf8(name, consumed)


def iter_blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield what `read` gives, a block at a time."""
    while block := read(BLOCK_BYTES):
        yield block


def check_unicode(text: str, what: str) -> bytes:
    """Return `text` as UTF-8.

    Raises:
        UserError: naming the offset, if the text holds a lone surrogate, which no UTF-8 can express.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start}"
        raise UserError(f"{what} must not hold a lone surrogate; got {found}. Remove it.") from None


def _whole_gzip(file: BufferedIOBase, path: Path) -> Iterator[bytes]:
    try:
        yield from iter_blocks(file.read)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} must be a whole gzip file; got: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} must be readable; got: {error.strerror}.") from None


def _lines(file: BufferedIOBase, path: Path) -> Iterator[bytes]:
    rest: list[bytes] = []
    for block in _whole_gzip(file, path):
        *whole, last = block.split(b"\n")
        for line in whole:
            yield b"".join([*rest, line, b"\n"])
            rest = []
        rest.append(last)
    if any(rest):
        yield b"".join(rest)


def _not_utf8(name: str, offset: int) -> UserError:
    return UserError(
        f"{name} must be UTF-8 text; got an invalid byte at byte {offset}. Convert or leave out this file."
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

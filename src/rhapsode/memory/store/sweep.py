"""Zero what SQLite leaves behind in the unused bytes of its pages.

`secure_delete` zeroes a cell when it is removed from its page. But when SQLite balances neighbouring pages it copies
cells to another page and leaves the old bytes in the gap of the page they came from; if the row is deleted later, that
copy survives (measured: 2 to 3 of 1,000 deleted words could still be read). A sweep reads every page and zeroes each
gap that is not zero. The gap belongs to no cell, so that no reader notices.

The page format: https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

import os
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

BLOCK_PAGES = 1024
FILE_HEADER = 100
BTREE_TYPES = (2, 5, 10, 13)
# an overflow or freelist page begins with a page number; below this many pages its first byte is 0 or 1, so that it
# cannot be taken for a b-tree page.
MAX_PAGES = 1 << 25


class _Shared(NamedTuple):
    descriptor: int
    users: int


_lock = threading.Lock()
_files: dict[tuple[int, int], _Shared] = {}


class RawFile:
    """A descriptor of the database file that every store of this process shares.

    Closing any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's among them. So it is
    opened once and closed only after the last connection of this process: call `close` after the connection's.
    """

    def __init__(self, path: Path) -> None:
        with _lock:
            status = path.stat()
            self._key = (status.st_dev, status.st_ino)
            shared = _files.get(self._key)
            self.descriptor = shared.descriptor if shared else os.open(path, os.O_RDWR)
            _files[self._key] = _Shared(self.descriptor, shared.users + 1 if shared else 1)

    def close(self) -> None:
        """Give the descriptor up; the last user closes it."""
        with _lock:
            shared = _files.pop(self._key)
            if shared.users > 1:
                _files[self._key] = _Shared(shared.descriptor, shared.users - 1)
            else:
                os.close(shared.descriptor)


def sweep(descriptor: int, page_size: int) -> int:
    """Zero every gap between cell pointers and cells in a database file, and force it to disk.

    Only call it while holding the write lock with an empty write-ahead log, and commit something afterwards, so that
    no connection writes an old copy of a page back.

    Args:
        descriptor: of the main file, open for reading and writing.
        page_size: in bytes, as `PRAGMA page_size` says.

    Returns:
        The number of pages that were changed. Cost: one read of the file, 0.3 s a gigabyte when it is cached.

    Raises:
        OverflowError: if the file has so many pages that their kinds cannot be told apart (128 GB at 4,096 bytes).
    """
    num_pages = os.fstat(descriptor).st_size // page_size
    if num_pages >= MAX_PAGES:
        raise OverflowError(f"a sweep needs fewer than {MAX_PAGES} pages; got {num_pages}.")
    zeros = bytes(page_size)
    buffer = bytearray(BLOCK_PAGES * page_size)
    changed = 0
    for first in range(0, num_pages, BLOCK_PAGES):
        size = os.preadv(descriptor, [buffer], first * page_size)
        for start, end in _gaps(buffer[:size] if size < len(buffer) else buffer, page_size, first == 0):
            if not buffer.startswith(zeros[: end - start], start):
                os.pwrite(descriptor, zeros[: end - start], first * page_size + start)
                changed += 1
    if changed:
        os.fsync(descriptor)
    return changed


def _gaps(block: bytearray, page_size: int, has_header: bool) -> list[tuple[int, int]]:
    """Return the gap of each b-tree page in `block` as offsets into it."""
    pages = np.frombuffer(block, dtype=np.uint8)[: len(block) // page_size * page_size].reshape(-1, page_size)
    offset = np.zeros(len(pages), dtype=np.int64)
    if has_header and len(pages):
        # the first page has the file's header in front.
        offset[0] = FILE_HEADER
    rows = np.arange(len(pages))

    def number(at: int) -> np.ndarray:
        return pages[rows, offset + at].astype(np.int64) * 256 + pages[rows, offset + at + 1]

    kind = pages[rows, offset]
    content = number(5)
    content[content == 0] = 65536
    start = offset + np.where(kind > 5, 8, 12) + 2 * number(3)
    valid = np.isin(kind, BTREE_TYPES) & (start < content) & (content <= page_size)
    base = rows * page_size
    return list(zip((base + start)[valid].tolist(), (base + content)[valid].tolist(), strict=True))

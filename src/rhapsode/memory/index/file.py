"""An inverted file on disk: written whole and renamed into place, erased from in place, checked list by list.

    0     magic, CRC of the header, its length, the header as JSON: seq, encoder, sizes, CRC of the fixed sections
    4096  centroids, code ranges, list sizes  (fixed)
          a CRC for each list, ids, codes     (change when a row is erased)

A forgotten row must leave the file at once, and rewriting 140 MB for one row would take too long. So its code is
zeroed, the list's CRC renewed, and last its id set to -1; a crash on the way leaves the id, and it is done again.
"""

import json
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from rhapsode.memory.index.inverted import InvertedParts
from rhapsode.runfolder import sync_folder

MAGIC = b"RHPSIVF1"
HEADER_BYTES = 4096
_PREFIX = struct.Struct("<8sII")
ERASED = -1


class DamagedIndexError(Exception):
    """The file is not what was written; it must be built again."""


@dataclass(frozen=True)
class _Layout:
    """Where each section begins."""

    num_lists: int
    width: int
    num_ranges: int
    num_rows: int
    code_size: int

    @property
    def fixed_bytes(self) -> int:
        return 4 * self.num_lists * self.width + 4 * self.num_ranges + 8 * self.num_lists

    @property
    def crcs(self) -> int:
        return HEADER_BYTES + self.fixed_bytes

    @property
    def ids(self) -> int:
        return self.crcs + 4 * self.num_lists

    @property
    def codes(self) -> int:
        return self.ids + 8 * self.num_rows

    @property
    def size(self) -> int:
        return self.codes + self.code_size * self.num_rows


@dataclass(frozen=True)
class SavedIndex:
    """An index as it was at `seq`."""

    parts: InvertedParts
    seq: int
    encoder: str


def save_index(path: Path, saved: SavedIndex) -> None:
    """Write atomically, to disk. The caller holds the store's write lock, so that no forget can come between.

    Raises:
        OSError: if it cannot be written; an older file is intact.
    """
    parts = saved.parts
    fixed = parts.centroids.tobytes() + parts.ranges.tobytes() + parts.sizes.tobytes()
    bounds = np.concatenate([[0], np.cumsum(parts.sizes)])
    crcs = np.array([_list_crc(parts.ids[a:b], parts.codes[a:b]) for a, b in pairwise(bounds)], "<u4")
    header = {
        "seq": saved.seq, "encoder": saved.encoder, "probes": parts.probes, "trained_on": parts.trained_on,
        "num_lists": len(parts.sizes), "width": parts.centroids.shape[1], "num_ranges": len(parts.ranges),
        "num_rows": len(parts.ids), "code_size": parts.codes.shape[1], "fixed_crc": zlib.crc32(fixed),
    }  # fmt: skip
    text = json.dumps(header).encode()
    prefix = (_PREFIX.pack(MAGIC, zlib.crc32(text), len(text)) + text).ljust(HEADER_BYTES, b"\0")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for piece in (prefix, fixed, crcs.tobytes(), parts.ids.data, parts.codes.data):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def load_index(path: Path) -> SavedIndex:
    """Read and check a file.

    Raises:
        FileNotFoundError: if there is none.
        DamagedIndexError: saying what is wrong with it.
    """
    with open(path, "rb") as file:
        header, layout = _read_header(file)
        file.seek(HEADER_BYTES)
        fixed = file.read(layout.fixed_bytes)
        if zlib.crc32(fixed) != header["fixed_crc"]:
            raise DamagedIndexError("its centroids have changed")
        sizes = _sizes(fixed, layout)
        crcs = np.frombuffer(file.read(4 * layout.num_lists), dtype="<u4")
        ids = np.frombuffer(file.read(8 * layout.num_rows), dtype="<i8")
        codes = np.frombuffer(file.read(layout.code_size * layout.num_rows), dtype=np.uint8)
    codes = codes.reshape(layout.num_rows, layout.code_size)
    start = 0
    for number, size in enumerate(sizes.tolist()):
        if _list_crc(ids[start : start + size], codes[start : start + size]) != crcs[number]:
            raise DamagedIndexError(f"list {number} has changed")
        start += size
    end = 4 * layout.num_lists * layout.width
    centroids = np.frombuffer(fixed[:end], dtype="<f4").reshape(layout.num_lists, layout.width)
    ranges = np.frombuffer(fixed[end : end + 4 * layout.num_ranges], dtype="<f4")
    parts = InvertedParts(centroids, ranges, sizes, ids, codes, header["probes"], header["trained_on"])
    return SavedIndex(parts, header["seq"], header["encoder"])


def erase_rows(path: Path, ids: Int64[np.ndarray, " N"]) -> int:
    """Remove rows from a file in place and force it to disk; return how many rows are left. Cost: one read of the ids.

    Raises:
        FileNotFoundError: if there is no file.
        DamagedIndexError: if it cannot be read; the caller removes it.
    """
    with open(path, "r+b") as file:
        _, layout = _read_header(file)
        file.seek(HEADER_BYTES)
        sizes = _sizes(file.read(layout.fixed_bytes), layout)
        file.seek(layout.ids)
        stored = np.frombuffer(file.read(8 * layout.num_rows), dtype="<i8")
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        places = np.flatnonzero(np.isin(stored, ids))
        for number in np.unique(np.searchsorted(bounds, places, side="right") - 1).tolist():
            _erase_from_list(file, layout, number, int(bounds[number]), int(bounds[number + 1]), ids)
        file.flush()
        os.fsync(file.fileno())
    return int((stored != ERASED).sum()) - len(places)


def _erase_from_list(file: BinaryIO, layout: _Layout, number: int, start: int, end: int, ids: np.ndarray) -> None:
    file.seek(layout.ids + 8 * start)
    list_ids = np.frombuffer(file.read(8 * (end - start)), dtype="<i8").copy()
    file.seek(layout.codes + layout.code_size * start)
    codes = np.frombuffer(file.read(layout.code_size * (end - start)), dtype=np.uint8).copy()
    codes = codes.reshape(end - start, layout.code_size)
    gone = np.isin(list_ids, ids)
    list_ids[gone] = ERASED
    codes[gone] = 0
    crc = np.array([_list_crc(list_ids, codes)], "<u4").tobytes()
    for at, piece in (
        (layout.codes + layout.code_size * start, codes.tobytes()),
        (layout.crcs + 4 * number, crc),
        (layout.ids + 8 * start, list_ids.tobytes()),
    ):
        file.seek(at)
        file.write(piece)
        # the order is the point: see the top of this file.
        file.flush()


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], _Layout]:
    prefix = file.read(HEADER_BYTES)
    if len(prefix) < HEADER_BYTES:
        raise DamagedIndexError("it is too short")
    magic, crc, length = _PREFIX.unpack_from(prefix)
    text = prefix[_PREFIX.size : _PREFIX.size + length]
    if magic != MAGIC or zlib.crc32(text) != crc:
        raise DamagedIndexError("its header has changed")
    header: dict[str, Any] = json.loads(text)
    names = ("num_lists", "width", "num_ranges", "num_rows", "code_size")
    layout = _Layout(*(header[name] for name in names))
    size = os.fstat(file.fileno()).st_size
    if size != layout.size:
        raise DamagedIndexError(f"it has {size} bytes and not {layout.size}")
    return header, layout


def _sizes(fixed: bytes, layout: _Layout) -> Int64[np.ndarray, " L"]:
    return np.frombuffer(fixed[-8 * layout.num_lists :], dtype="<i8")


def _list_crc(ids: np.ndarray, codes: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(codes).data, zlib.crc32(np.ascontiguousarray(ids).data))

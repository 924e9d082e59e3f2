"""The files of the vector index beside the database: their names, and erasing from them."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from rhapsode.memory.index.file import DamagedIndexError, erase_rows


def index_path(folder: Path, space: int) -> Path:
    """Return where the index of a space is kept."""
    return folder / f"index-{space}.bin"


def erase_from_files(folder: Path, ids: Int64[np.ndarray, " N"], spaces: set[int]) -> None:
    """Remove rows from every index file, and the files of spaces that are gone. The caller holds the write lock.

    A temporary file is that of a process that died while writing, for writing needs the lock too. A damaged file is
    removed, since its rows cannot be found, and so is one without rows, since its centroids were their means.
    """
    for left_over in folder.glob(".index-*.tmp"):
        left_over.unlink()
    kept = {index_path(folder, space) for space in spaces}
    for path in folder.glob("index-*.bin"):
        if path not in kept:
            path.unlink()
            continue
        try:
            left = erase_rows(path, ids)
        except DamagedIndexError:
            left = 0
        if not left:
            path.unlink()

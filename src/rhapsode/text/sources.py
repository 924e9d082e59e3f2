"""From what a person names (files, folders, globs, `-`, `stdlib`) to readers of documents."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rhapsode.errors import UserError, unknown_name
from rhapsode.text.curriculum import PREFIX, WeightedReader, load_curriculum
from rhapsode.text.readers import JsonlReader, Reader, StdinReader, TextReader
from rhapsode.text.stdlib import StdlibReader

ENDINGS = (".txt", ".md", ".rst", ".py", ".jsonl")
_STDLIB = {"stdlib": False, "stdlib:source": True}


def open_readers(sources: Sequence[str], setting: str = "SOURCE") -> list[Reader]:
    """Find the documents behind `sources`, without reading them.

    A source is a file (any ending: `.jsonl` is read by lines, everything else as text), a folder (all files below
    it with a known ending; names that begin with a dot are skipped), a glob (likewise), `-` for standard input,
    `stdlib`, `stdlib:source`, or `curriculum:NAME` (see `text/curriculum.py`). `.gz` may follow every ending. A file
    that is named twice is read once. To read a file that is called `stdlib`, write `./stdlib`.

    Args:
        sources: what was named, in order.
        setting: how messages call it.

    Raises:
        UserError: if there is no source, one is empty, missing, or has no file with a known ending.
    """
    if not sources:
        raise UserError(f"{setting} must be given. Name a file, a folder, a glob, - or stdlib.")
    readers: list[Reader] = []
    seen: set[str] = set()
    for source in sources:
        if source.startswith(PREFIX):
            curriculum = load_curriculum(source.removeprefix(PREFIX))
            readers += [
                WeightedReader(one.source, open_readers([one.source], setting), one.weight)
                for one in curriculum.sources
            ]
            continue
        if source == "-" or source in _STDLIB or source.startswith("stdlib:"):
            if source not in seen:
                readers.append(_open_special(source, setting))
            seen.add(source)
            continue
        for path in _files(source, setting):
            real = os.path.realpath(path)
            if real not in seen:
                readers.append(JsonlReader(path) if _ending(path) == ".jsonl" else TextReader(path))
            seen.add(real)
    return readers


def _open_special(source: str, setting: str) -> Reader:
    if source == "-":
        return StdinReader()
    if source not in _STDLIB:
        raise unknown_name(setting, source, _STDLIB)
    return StdlibReader(source=_STDLIB[source])


def _files(source: str, setting: str) -> list[Path]:
    if not source.strip():
        raise UserError(f"{setting} must not be empty; got {source!r}. Name a file, a folder, a glob, - or stdlib.")
    path = Path(source)
    if path.is_dir():
        found, what = sorted(_walk(path)), "a folder with text files"
    elif path.exists():
        return [path]
    elif glob.has_magic(source):
        matches = (Path(name) for name in glob.glob(source, recursive=True))
        found, what = sorted(path for path in matches if _readable(path)), "a glob that matches text files"
    else:
        raise UserError(f"{setting} must name a file, a folder or a glob that exists; got {source}. Check the path.")
    if not found:
        raise UserError(
            f"{setting} must name {what}; got {source}. "
            f"Files that end in {', '.join(ENDINGS)} are read, each also with .gz."
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and _readable(path):
                yield path


def _readable(path: Path) -> bool:
    return _ending(path) in ENDINGS and path.is_file()


def _ending(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()

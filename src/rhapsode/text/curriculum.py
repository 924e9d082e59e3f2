"""A curriculum: sources in order, each with a weight, in a TOML file.

Wherever a source can be named, `curriculum:NAME` names a shipped one and `curriculum:PATH.toml` a file:

    [[sources]]
    source = "stdlib"
    weight = 2.0

A weight of 2 gives every document twice, one of 0.25 a quarter of the documents, chosen by a hash of their names.
"""

import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from rhapsode.config import Config, build_config, read_toml
from rhapsode.errors import UserError, unknown_name
from rhapsode.text.readers import RawDocument, Reader

PREFIX = "curriculum:"


class WeightedSource(Config):
    """One source of a curriculum."""

    source: str
    """What `rhapsode train` takes as a source, but for another curriculum."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """How often each document counts; below one, the share of documents that are taken."""


class Curriculum(Config):
    """Sources in the order in which they are read."""

    sources: tuple[WeightedSource, ...] = ()
    """The sources."""


class WeightedReader:
    """The documents of one source, `weight` times."""

    def __init__(self, source: str, readers: Sequence[Reader], weight: float) -> None:
        self._source = source
        self._readers = list(readers)
        self._weight = weight

    def documents(self) -> Iterator[RawDocument]:
        """Yield all documents for every whole unit of the weight, and then the share that is left.

        Raises:
            UserError: if that is no document at all.
        """
        for _ in range(int(self._weight)):
            for reader in self._readers:
                yield from reader.documents()
        rest = self._weight - int(self._weight)
        if rest > 0:
            seen = taken = 0
            for document in (document for reader in self._readers for document in reader.documents()):
                seen += 1
                if _place(document.name) < rest:
                    taken += 1
                    yield document
            if self._weight < 1 and not taken:
                raise UserError(
                    f"a curriculum's weight below 1 takes whole documents, and must take one; got {self._weight:g} "
                    f"of the {seen} of {self._source}. Raise it."
                )


def curriculum_names() -> list[str]:
    """Return the names of the curricula that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def curriculum_summary(name: str) -> str:
    """Return the first sentence of the comment at the top of a shipped curriculum."""
    return str((_folder() / f"{name}.toml").read_text(encoding="utf-8")).splitlines()[0].removeprefix("# ")


def load_curriculum(name_or_path: str) -> Curriculum:
    """Load a shipped curriculum by name, or one from a TOML file.

    Raises:
        UserError: if there is none, it has no source, or names another curriculum.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in curriculum_names():
        path = Path(str(_folder() / f"{name_or_path}.toml"))
    else:
        raise unknown_name("the curriculum", name_or_path, curriculum_names())
    curriculum = build_config(Curriculum, read_toml(path), "curriculum")
    if not curriculum.sources:
        raise UserError(f"a curriculum must have at least one [[sources]] entry; {path} is empty. Add a source.")
    for one in curriculum.sources:
        if one.source.startswith(PREFIX):
            raise UserError(f"a curriculum must not name another; {path} names {one.source}. Copy its sources.")
    return curriculum


def _place(name: str) -> float:
    """Return where a name falls in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _folder() -> Any:
    return files("rhapsode.curricula")

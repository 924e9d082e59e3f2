"""Names that a person can write in a recipe, and where the code behind each lives.

Entries are `"module:Attribute"` strings, imported only when asked for, so that listing and checking
never import torch. Third parties add their own through the entry-point group `rhapsode.<kind>`.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from rhapsode.errors import unknown_name


@dataclass(frozen=True)
class Entry:
    """One registered part: its name, where it lives, and what it is in one line."""

    name: str
    target: str
    summary: str


class Registry:
    """A lazy table of the parts of one kind, such as mixers or tokenizers."""

    def __init__(self, kind: str, entries: dict[str, tuple[str, str]]) -> None:
        """Store `entries`: name -> (`"module:Attribute"`, one line of help)."""
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._external_loaded = False
        for name, (target, summary) in entries.items():
            self.register(name, target, summary)

    def register(self, name: str, target: str, summary: str) -> None:
        """Add a part. A name that is taken is a programmer's error and fails."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name].target} and {target}.")
        self._entries[name] = Entry(name, target, summary)

    def entries(self) -> list[Entry]:
        """Return all parts, ours first, in the order of registration."""
        if not self._external_loaded:
            self._external_loaded = True
            for point in entry_points(group=f"rhapsode.{self.kind}"):
                self.register(point.name, point.value, "from another package")
        return list(self._entries.values())

    def names(self) -> list[str]:
        """Return all names."""
        return [entry.name for entry in self.entries()]

    def check(self, name: str, setting: str) -> str:
        """Return `name` if it is known.

        Raises:
            UserError: naming `setting`, the nearest match and the list.
        """
        if name not in self.names():
            raise unknown_name(setting, name, self.names())
        return name

    def load(self, name: str) -> Any:
        """Import and return the part called `name`.

        Raises:
            UserError: if there is no such part.
        """
        self.check(name, self.kind)
        module, _, attribute = self._entries[name].target.partition(":")
        return getattr(import_module(module), attribute)

"""What every verb returns."""

from typing import Any


class Record(dict[str, Any]):
    """A result: a dictionary whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this result has {', '.join(self)}; got '{name}'.") from None

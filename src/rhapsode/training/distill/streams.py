"""What a teacher can be read for at every position, and where each stream lies in a position's vector. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rhapsode.errors import UserError, unknown_name

STREAMS = ("ids", "embeddings", "hidden", "qkv", "phases", "metadata")
"""In the order in which they stand in a vector.

`ids` has no numbers in it: an id is a name, not a quantity, and enters by exact hashed indicators.
"""
METADATA_WIDTH = 4


@dataclass(frozen=True)
class StreamSlice:
    """Where a stream lies in the vector of a position."""

    name: str
    offset: int
    width: int


def parse_streams(text: str) -> tuple[str, ...]:
    """Read `--capture ids,hidden,...`, in any order; `all` is every stream.

    >>> parse_streams("hidden,ids")
    ('ids', 'hidden')

    Raises:
        UserError: if a name is unknown or comes twice, or there is none.
    """
    if text.strip() == "all":
        return STREAMS
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STREAMS:
            raise unknown_name("--capture", name, STREAMS)
    if not names or len(set(names)) < len(names):
        raise UserError(f"--capture must name different streams; got '{text}'. Try all, or ids,hidden.")
    return tuple(name for name in STREAMS if name in names)


def lay_out(widths: Mapping[str, int], chosen: Sequence[str] | None) -> tuple[StreamSlice, ...]:
    """Put the chosen streams one after another.

    Args:
        widths: numbers that each stream of the teacher has.
        chosen: names; None takes all that the teacher has.

    Raises:
        UserError: if a stream was chosen that the teacher does not have.
    """
    missing = [name for name in chosen or () if name not in widths]
    if missing:
        has = ", ".join(name for name in STREAMS if name in widths)
        raise UserError(
            f"--capture must name streams that the teacher has; got {missing[0]}, and it has {has}. Leave it out."
        )
    found, offset = [], 0
    for name in STREAMS:
        if name in widths and (chosen is None or name in chosen):
            found.append(StreamSlice(name, offset, widths[name]))
            offset += widths[name]
    return tuple(found)

"""How commands print: data to standard output, everything else to standard error."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def print_table(value: Mapping[str, Any], indent: str = "") -> None:
    """Print a mapping as lines of name and value, nested ones indented."""
    width = max((len(name) for name in value), default=0)
    for name, entry in value.items():
        if isinstance(entry, list) and entry and all(isinstance(row, Mapping) for row in entry):
            print(f"{indent}{name}")
            print_rows(entry, indent + "  ")
        elif isinstance(entry, Mapping):
            print(f"{indent}{name}")
            print_table(entry, indent + "  ")
        else:
            print(f"{indent}{name:<{width}}  {_plain(entry)}")


def print_rows(rows: Sequence[Mapping[str, Any]], indent: str = "") -> None:
    """Print rows as aligned columns; a figure with its interval takes one cell, deeper entries are left to --json."""
    names = list(dict.fromkeys(name for row in rows for name, entry in row.items() if _fits(entry)))
    table = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    for line in table:
        print((indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))).rstrip())


def say(sentence: str) -> None:
    """Print a sentence on standard error."""
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def say_progress(verb: str, every_s: float = 2.0) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told how many of how many are done, and says so on standard error now and then.

    On a terminal it rewrites one line; nothing is said of what takes less than `every_s`.
    """
    last = time.monotonic()
    on_terminal = sys.stderr.isatty()
    said = False

    def tell(done: int, total: int) -> None:
        nonlocal last, said
        if time.monotonic() - last < every_s:
            return
        last, said = time.monotonic(), True
        line = f"{done:,} of {total:,} {verb}"
        print(f"\r{line}" if on_terminal else line, end="" if on_terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if said and on_terminal:
            print(file=sys.stderr)


def _fits(entry: Any) -> bool:
    return not isinstance(entry, (Mapping, list)) or (isinstance(entry, Mapping) and "value" in entry)


def _cell(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return "" if entry is None else _plain(entry)
    if entry["value"] is None:
        return ""
    interval = entry.get("interval")
    return _plain(entry["value"]) + (f" ({_plain(list(interval))})" if interval else "")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
        return " .. ".join(f"{v:.4f}" for v in value)
    return str(value)


def describe_decoding(done: Any) -> str:
    """Return what to say about how a `Generation` was decoded, nothing for plain decoding."""
    if done.decode == "plain":
        return ""
    text = f"; {done.tokens_per_forward:.2f} tokens a pass"
    if done.acceptance is not None:
        text += f", {done.acceptance:.0%} of the drafted accepted"
    if done.draft_loss is not None:
        text += f"; lossy: {done.draft_loss:.2f} nats a drafted token, {done.differing} differ from the model's choice"
    return text

"""How commands print: data to standard output, everything else to standard error."""

import json
import sys
from collections.abc import Mapping
from typing import Any


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def print_table(value: Mapping[str, Any], indent: str = "") -> None:
    """Print a mapping as lines of name and value, nested ones indented."""
    width = max((len(name) for name in value), default=0)
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            print(f"{indent}{name}")
            print_table(entry, indent + "  ")
        else:
            print(f"{indent}{name:<{width}}  {_plain(entry)}")


def say(sentence: str) -> None:
    """Print a sentence on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
        return " .. ".join(f"{v:.4f}" for v in value)
    return str(value)

"""What every benchmark does: say where it ran, and write its rows beside the others."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return processor, cores and versions, without importing anything heavy."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in _lines(cpuinfo) if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": num_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("rhapsode", "numpy", "torch", "tokenizers", "tiktoken")},
    }


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_result(name: str, rows: Sequence[Mapping[str, Any]], **extra: Any) -> Path:
    """Write `rows` to results/NAME.json with machine, date and load, and return the path.

    make_results.py puts every file of this form into docs/results.md.

    Args:
        rows: one mapping a figure; rows with the same `measure` share a table.
        extra: what holds for all rows. `title` and `note` stand over the tables; `goals` is a list of mappings
            with `what`, `value`, `limit`, `met` and perhaps `beside`, a peer's figure in words; `peers` maps packages
            compared with to their versions; `columns` maps a `measure` to the keys that its table shows.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    # a busy machine halves a figure: say how busy it was.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    value = {"date": date.today().isoformat(), "machine": machine(), "load_average": load, **extra, "rows": list(rows)}
    path.write_text(json.dumps(value, indent=2) + "\n")
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []

"""Turn results/*.json into the tables of docs/results.md and README.md; takes no time and measures nothing.

    python benchmarks/make_results.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is that of the JSON file; prose around
the marks is left alone. A file that has no place in docs/results.md yet gets a section at its end. The table `readme`
sums up the goals of all files. With --check nothing is written, and the exit code is 1 if a page is out of date.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
SUMMARY = "readme"
TABLE = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
# which key says what kind of figure a row is; older files call it `what`.
GROUP_KEYS = ("measure", "what")
Result = Mapping[str, Any]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    arguments = parser.parse_args()
    stale = stale_pages()
    for path, text in stale.items():
        print(path, file=sys.stderr)
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    if arguments.check and stale:
        sys.exit("out of date; run: python benchmarks/make_results.py")


def stale_pages() -> dict[Path, str]:
    """Return what the pages that are out of date should be."""
    results = load_results(RESULTS)
    current = {path: path.read_text(encoding="utf-8") for path in (PAGE, README)}
    wanted = {PAGE: update(current[PAGE], results, add_missing=True), README: update(current[README], results)}
    return {path: text for path, text in wanted.items() if text != current[path]}


def load_results(folder: Path) -> dict[str, Result]:
    """Return every stored result by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def update(page: str, results: Mapping[str, Result], *, add_missing: bool = False) -> str:
    """Return `page` with every table made anew.

    Args:
        add_missing: put a section at the end for each result that has none.

    Raises:
        ValueError: if the page has a table of which there is no result, or two of one name, or a mark too few.
    """
    names = [match["name"] for match in TABLE.finditer(page)]
    if len(names) != page.count("<!-- table:") or len(set(names)) != len(names):
        raise ValueError(f"every table must have its own name and its <!-- end -->; got {', '.join(names)}.")
    unknown = [name for name in names if name not in results and name != SUMMARY]
    if unknown:
        raise ValueError(f"a table must have a file in benchmarks/results; {', '.join(unknown)} has none.")
    for name in results if add_missing else ():
        if name not in names:
            page = f"{page.rstrip()}\n\n## {results[name].get('title', name)}\n\n<!-- table: {name} -->\n<!-- end -->\n"

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        blocks = summarise(results) if name == SUMMARY else render(results[name])
        body = "".join(f"\n{block}\n" for block in blocks)
        return f"<!-- table: {name} -->\n{body}{chr(10) if body else ''}<!-- end -->"

    return TABLE.sub(replacement, page)


def render(result: Result) -> list[str]:
    """Return the blocks of one result: where it was measured, its goals, and a table for each kind of row."""
    blocks = [provenance(result), *([result["note"]] if "note" in result else [])]
    if result.get("goals"):
        goals = [
            {"goal": g["what"], "limit": g["limit"], "measured": g["value"], "met": g["met"]} for g in result["goals"]
        ]
        blocks.append(table(goals, list(goals[0])))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(next((row[key] for key in GROUP_KEYS if key in row), ""), []).append(row)
    for group, rows in groups.items():
        columns = result.get("columns", {}).get(group) or columns_of(rows)
        blocks.append((f"{group.replace('_', ' ')}:\n\n" if group else "") + table(rows, columns))
    return blocks


def provenance(result: Result) -> str:
    """Return one line: when, on what and with which versions."""
    machine = dict(result["machine"]) if "machine" in result else {"cpu": result["cpu"], "cores": result["cores"]}
    cores = machine.pop("cores")
    parts = [result["date"], machine.pop("cpu"), f"{cores} core" + ("" if cores == 1 else "s")]
    parts += [machine.pop("system")] if "system" in machine else []
    parts += [f"{name} {version}" for name, version in {**machine, **result.get("versions", {})}.items()]
    parts += [f"{name} {version}" for name, version in result.get("peers", {}).items()]
    parts += ["load average " + cell(result["load_average"])] if result.get("load_average") is not None else []
    return ", ".join(parts) + "."


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that occur, in order, without those whose values a cell cannot hold."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in GROUP_KEYS)
    return [key for key in keys if all(fits(row.get(key)) for row in rows)]


def fits(value: Any) -> bool:
    return not isinstance(value, list) or (len(value) <= 2 and not any(isinstance(item, list | dict) for item in value))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a Markdown table; a row that lacks a column has an empty cell."""
    lines = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    lines += [[cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Return a value as text: five significant digits, a pair of numbers as an interval.

    >>> [cell(x) for x in (1.459213, 23456.7, 12000, True, None, [1.2, 1.5], {"width": 128})]
    ['1.4592', '23,457', '12,000', 'yes', '', '1.2 to 1.5', 'width 128']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(cell(item) for item in value)
    return str(value).replace("|", "\\|")


def summarise(results: Mapping[str, Result]) -> list[str]:
    """Return one table of the goals of all results, met or not, or nothing."""
    goals = [
        {"measured": f"{goal['what']} {cell(goal['limit'])}", "figure": goal["value"], "goal met": goal["met"]}
        | {"beside": goal.get("beside"), "benchmark": name}
        for name, result in results.items()
        for goal in result.get("goals", ())
    ]
    return [table(goals, list(goals[0]))] if goals else []


if __name__ == "__main__":
    main()

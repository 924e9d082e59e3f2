"""rhapsode memory: look after what a run was taught."""

import json as json_module
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.ask import shorten
from rhapsode.cli.output import print_json, print_table
from rhapsode.errors import UserError, unknown_name

ACTIONS = {
    "stats": "how much is stored, and in what state",
    "list": "every memory",
    "search": "the memories nearest to QUERY, without judging whether they answer it",
    "export": "every memory as lines of JSON, to FILE or standard output",
    "import": "memories from a FILE that export wrote",
    "verify": "check the store; exit 1 if anything is wrong",
    "rebuild": "make the index anew; with --reencode the vectors too",
    "compact": "give the space of erased memories back to the disk",
}
_WITH_ARGUMENT = {"search": "QUERY", "import": "FILE"}


def memory(
    run: options.Run,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="; ".join(f"{k}: {v}" for k, v in ACTIONS.items()))],
    argument: Annotated[
        str | None, typer.Argument(metavar="[QUERY|FILE]", help="For search, export and import.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="search: memories to show.")] = 5,
    mode: Annotated[str, typer.Option("--mode", help="search: hybrid, text or vector.")] = "hybrid",
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="NAME=VALUE", help="search, list: only with this metadata.")
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="Only this space; search: default.")] = None,
    source: options.Source = None,
    reencode: Annotated[bool, typer.Option("--reencode", help="rebuild: encode every memory again.")] = False,
    json: options.Json = False,
) -> None:
    """Look after what a run was taught."""
    if action not in ACTIONS:
        raise unknown_name("ACTION", action, list(ACTIONS))
    if action in _WITH_ARGUMENT and argument is None:
        raise UserError(
            f"{_WITH_ARGUMENT[action]} must be given: rhapsode memory RUN {action} {_WITH_ARGUMENT[action]}"
        )
    from rhapsode import api

    read_only = action in {"stats", "list", "search", "export", "verify"}
    # another encoder than the rows' is what rebuild --reencode is there to mend.
    with api.open_memory(run, read_only=read_only, reencode=reencode and action == "rebuild") as opened:
        if action == "search":
            assert argument is not None
            filters = _filters(where)
            hits = opened.search(argument, k=k, space=space or "default", where=filters or None, mode=mode)
            _rows([{**asdict(hit.row), "score": hit.score, "parts": hit.parts} for hit in hits], json)
        elif action == "list":
            _rows([asdict(row) for row in opened.rows(space=space, source=source, where=_filters(where) or None)], json)
        elif action == "export":
            _export(opened, argument, json)
        else:
            _act(opened, action, argument, json)


def _act(opened: Any, action: str, argument: str | None, json: bool) -> None:
    if action == "stats":
        result = opened.stats()
    elif action == "import":
        result = opened.import_file(argument)
    elif action == "verify":
        result = opened.verify()
    elif action == "compact":
        result = opened.compact()
    else:
        result = opened.rebuild()
    (print_json if json else print_table)(result)
    if action == "verify" and not result["sound"]:
        raise typer.Exit(1)


def _rows(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json({"rows": rows, "n": len(rows)})
        return
    for row in rows:
        score = f"  {row['score']:.3f}" if "score" in row else ""
        label = f"  [{row['source']}]" if row["source"] else ""
        old = f"  (replaced by {row['superseded_by']})" if row["superseded_by"] is not None else ""
        print(f"{row['id']:>6}{score}  {shorten(row['text'])}{label}{old}")


def _export(opened: Any, path: str | None, json: bool) -> None:
    if path is None or path == "-":
        for row in opened.rows():
            print(json_module.dumps(asdict(row), ensure_ascii=False))
        return
    result = opened.export_file(path)
    (print_json if json else print_table)(result)


def _filters(where: list[str] | None) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for pair in where or []:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UserError(f"--where must look like name=value; got '{pair}'.")
        try:
            filters[name] = json_module.loads(value)
        except ValueError:
            filters[name] = value
    return filters

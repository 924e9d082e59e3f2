"""rhapsode memory: look after what a run was taught."""

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
    "show": "all that is known about the memory ID",
    "search": "the memories nearest to QUERY, without judging whether they answer it",
    "export": "every memory as lines of JSON, to FILE or standard output",
    "import": "memories from a FILE that export wrote, all or none",
    "verify": "check the store; exit 1 if anything is wrong",
    "rebuild": "make the index anew; with --reencode the vectors too; with --encoder by another encoder; with "
    "--recover the database, from what can be read of a damaged one",
    "compact": "give the space of erased memories back to the disk",
}
_WITH_ARGUMENT = {"search": "QUERY", "import": "FILE", "show": "ID"}
_OPTIONS = {
    "list": {"where", "space", "source"},
    "search": {"k", "mode", "where", "space"},
    "rebuild": {"reencode", "encoder", "recover"},
}
"""What each action takes beside --json; an action that is not named takes nothing."""
_READING = {"stats", "list", "show", "search", "export", "verify"}
_ENCODING = {"search", "import"}


def memory(
    run: options.Run,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="; ".join(f"{k}: {v}" for k, v in ACTIONS.items()))],
    argument: Annotated[
        str | None, typer.Argument(metavar="[QUERY|FILE|ID]", help="For search, show, export and import.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="search: memories to show; default 5.")] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="search: hybrid, text or vector; default hybrid.")] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="NAME=VALUE", help="search, list: only with this metadata.")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="search, list: only this space; search: default.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="list: only with this label.")] = None,
    reencode: Annotated[bool, typer.Option("--reencode", help="rebuild: encode every memory again.")] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME|FOLDER", help="rebuild: static, state, or a folder of sentence-transformers."
        ),
    ] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="rebuild: copy what can be read out of a damaged database.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Look after what a run was taught."""
    given = {"k": k, "mode": mode, "where": where, "space": space, "source": source, "encoder": encoder}
    given |= {"reencode": reencode or None, "recover": recover or None}
    _check(action, argument, {name for name, value in given.items() if value not in (None, [])}, json)
    from rhapsode import api

    if recover:
        # before the store is opened, which a damaged one cannot be.
        (print_json if json else print_table)(api.recover_memory(run))
        return
    # another encoder than the rows' is what rebuild --reencode is there to mend.
    reencode = reencode or encoder is not None
    with api.open_memory(
        run, read_only=action in _READING, encode=action in _ENCODING, reencode=reencode, encoder=encoder
    ) as opened:
        filters = options.read_pairs(where, "--where") or None
        if action == "search":
            assert argument is not None
            k, mode = 5 if k is None else k, mode or "hybrid"
            hits = opened.search(argument, k=k, space="default" if space is None else space, where=filters, mode=mode)
            _rows([{**asdict(hit.row), "score": hit.score, "parts": hit.parts} for hit in hits], json)
        elif action == "list":
            _rows([asdict(row) for row in opened.rows(space=space, source=source, where=filters)], json)
        elif action == "export":
            _export(opened, argument, json)
        else:
            _act(opened, action, argument, json)


def _check(action: str, argument: str | None, given: set[str], json: bool) -> None:
    """Refuse what an action does not take: an option that is ignored would be taken for obeyed."""
    if action not in ACTIONS:
        raise unknown_name("ACTION", action, list(ACTIONS))
    wanted = _WITH_ARGUMENT.get(action)
    if wanted and argument is None:
        raise UserError(f"{wanted} must be given: rhapsode memory RUN {action} {wanted}")
    if not wanted and argument is not None and action != "export":
        raise UserError(f"{action} must be given alone; got '{argument}'.")
    for name in sorted(given - _OPTIONS.get(action, set())):
        takers = " or ".join(other for other, names in _OPTIONS.items() if name in names)
        raise UserError(f"--{name} must come with {takers}; got {action}.")
    if "recover" in given and len(given) > 1:
        raise UserError("--recover must be given alone. Encode afterwards with: rhapsode memory RUN rebuild --reencode")
    if action == "show" and not str(argument).isdecimal():
        raise UserError(
            f"ID must be the number of a memory; got '{argument}'. List them with: rhapsode memory RUN list"
        )
    if action == "export" and json and argument in (None, "-"):
        raise UserError("--json must come with a FILE; what export prints without one is lines of JSON already.")


def _act(opened: Any, action: str, argument: str | None, json: bool) -> None:
    if action == "stats":
        result = opened.stats()
    elif action == "show":
        result = opened.show(int(str(argument)))
    elif action == "import":
        result = opened.import_file(argument)
    elif action == "verify":
        result = opened.verify()
    elif action == "compact":
        result = opened.compact()
    else:
        result = opened.rebuild()
    (print_json if json else print_table)(result)
    if action == "import" and not json and result["superseded"]:
        print(f"{result['superseded']:,} in the place of older texts")
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
        for line in opened.store.export_lines():
            print(line, end="")
        return
    result = opened.export_file(path)
    (print_json if json else print_table)(result)

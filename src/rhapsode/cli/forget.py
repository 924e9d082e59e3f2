"""rhapsode forget"""

import shlex
import sys
from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.ask import shorten
from rhapsode.cli.output import print_json, say
from rhapsode.errors import UserError

SHOWN = 20


def forget(
    run: options.Run,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="Memories to erase.")] = None,
    match: Annotated[str | None, typer.Option("--match", help="Erase the memories that hold this text.")] = None,
    source: options.Source = None,
    key: Annotated[str | None, typer.Option("--key", help="Erase all versions of this key.")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="With --match, --source or --key: only in this space.")
    ] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Erase the other versions of their keys as well.")
    ] = False,
    no_occurrences: Annotated[
        bool, typer.Option("--no-occurrences", help="Do not look for the texts in the run's own text.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Erase memories, so that their text is in no file of the memory any more.

    What --match, --source and --key find is listed first, and you are asked. If the newest version of a key is erased,
    the one before it answers again, which is said.
    """
    from rhapsode import api

    with api.open_memory(run, read_only=dry_run, encode=False) as memory:
        chosen: dict[str, Any] = {"match": match, "source": source, "key": key, "space": space}
        chosen["all_versions"] = all_versions
        if not ids and not dry_run:
            rows = memory.find(**chosen)
            for row in rows[:SHOWN]:
                say(f"{row.id:>6}  {shorten(row.text)}")
            if len(rows) > SHOWN:
                say(f"... and {len(rows) - SHOWN:,} more")
            if rows and not yes and not _confirmed(len(rows)):
                raise UserError("nothing was erased.")
            # what was shown is what is erased, whatever was written since.
            if rows:
                chosen, ids = {}, [row.id for row in rows]
        result = memory.forget(ids or (), dry_run=dry_run, occurrences=not no_occurrences, **chosen)
    (print_json if json else _print_result)(result)


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise UserError(f"--yes must be given to erase {count:,} memories without being asked.")
    return typer.confirm(f"erase {count:,} memories?", err=True)


def _print_result(result: dict[str, Any]) -> None:
    count = len(result["ids"])
    if result["dry_run"]:
        for row_id, text in zip(result["ids"], result["texts"], strict=True):
            print(f"{row_id:>6}  {shorten(text)}")
        print(f"{count:,} would be erased")
    elif count and not result["erased"]:
        print(f"{count:,} forgotten; a reader holds the files, so their bytes go at the next opening")
    else:
        print(f"{count:,} erased in {result['ms']:.1f} ms")
    for older in result["restored"]:
        answers = "would answer again" if result["dry_run"] else "answers again"
        again = f"rhapsode forget {shlex.quote(result['run'])} {older['id']}"
        print(f"{older['id']} {answers}: {shorten(older['text'])}; forget it too with: {again}")
    if result.get("elsewhere_problem"):
        say(f"whether they also stand in the run's own text is not known: {result['elsewhere_problem']}")
    for part, found in (result.get("elsewhere") or {}).items():
        if found:
            print(f"{found:,} of them also stand in the run's {part} text, which is not memory")

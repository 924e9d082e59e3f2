"""rhapsode teach"""

import sys
from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, say_progress

SHOWN = 20


def teach(
    run: options.Run,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="What to remember; - reads standard input.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="Lines of key TAB text, or text that is cut into paragraphs.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="What TEXT is the value of; a new text replaces the old one.")
    ] = None,
    source: options.Source = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="To filter by; may be repeated.")
    ] = None,
    space: options.Space = "default",
    json: options.Json = False,
) -> None:
    """Write facts into a run's memory: durable at once, without training."""
    from rhapsode import api

    given = [sys.stdin.read() if text == "-" else text for text in texts or []]
    labels = options.read_pairs(metadata, "--metadata") or None
    with api.open_memory(run) as memory, say_progress("taught") as progress:
        result = memory.teach(given, file=file, key=key, source=source, space=space, metadata=labels, progress=progress)
    if json:
        print_json(result)
        return
    for row_id, created, superseded in zip(result.ids, result.created, result.superseded, strict=True):
        if len(result.ids) > SHOWN:
            break
        replaced = "" if superseded is None else f", in the place of {superseded}, which is kept"
        print(f"{row_id}  {'taught' if created else 'known already'}{replaced}")
    new = sum(result.created)
    num_replaced = sum(old is not None for old in result.superseded)
    in_place = f", {num_replaced:,} in the place of older texts" if num_replaced else ""
    print(f"{new:,} taught, {len(result.ids) - new:,} known already{in_place}, in {result.ms:.1f} ms")

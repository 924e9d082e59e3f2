"""rhapsode list"""

from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json
from rhapsode.errors import unknown_name


def list_parts(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One kind only, such as mixers.")] = None,
    json: options.Json = False,
) -> None:
    """List what can be named in a recipe: name, one line, and where it lives."""
    rows = _all_rows()
    if kind is not None:
        if kind not in rows:
            raise unknown_name("KIND", kind, rows)
        rows = {kind: rows[kind]}
    if json:
        print_json(rows)
        return
    for name, entries in rows.items():
        print(name)
        for entry in entries:
            print(f"  {entry['name']:<16} {entry['summary']}  ({entry['where']})")


def _all_rows() -> dict[str, list[dict[str, str]]]:
    from rhapsode.evaluation.config import SUITES
    from rhapsode.nn.config import EMBEDDERS, FEED_FORWARDS, HEADS, MIXERS
    from rhapsode.text.config import TOKENIZERS
    from rhapsode.text.curriculum import curriculum_names, curriculum_summary
    from rhapsode.training.config import recipe_names, recipe_summary

    rows = {
        "recipes": [
            {"name": name, "summary": recipe_summary(name), "where": f"rhapsode/recipes/{name}.toml"}
            for name in [*recipe_names(), *recipe_names("field")]
        ],
        "curricula": [
            {"name": name, "summary": curriculum_summary(name), "where": f"rhapsode/curricula/{name}.toml"}
            for name in curriculum_names()
        ],
    }
    for registry in (EMBEDDERS, MIXERS, FEED_FORWARDS, HEADS, TOKENIZERS, SUITES):
        rows[registry.kind] = [
            {"name": entry.name, "summary": entry.summary, "where": entry.target} for entry in registry.entries()
        ]
    return rows

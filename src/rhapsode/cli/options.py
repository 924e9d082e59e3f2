"""Options that several commands share, and how flags become settings."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from rhapsode.errors import RhapsodeError, UserError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.")]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Files, folders or globs (.txt .md .rst .py .jsonl, also .gz), - for standard input, stdlib, "
        "stdlib:source, curriculum:NAME, or one folder made by prepare.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="A shipped recipe (rhapsode list recipes) or a TOML file.")]
Params = Annotated[str | None, typer.Option("--params", help="Parameter budget, such as 5M; 90-100 % of it is used.")]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Budget in minutes from the first step, compilation and evaluation included."),
]
Tokens = Annotated[str | None, typer.Option("--tokens", help="Budget in training tokens, such as 10M.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Budget in optimizer steps.")]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Budget in passes over the text.")]
TokenizerName = Annotated[
    str | None,
    typer.Option("--tokenizer", help="bytes, chars, bpe or ngram; or the path of a saved tokenizer to use again."),
]
VocabSize = Annotated[
    int | None, typer.Option("--max-vocab-size", "--cap", help="Hard cap on token ids, specials included.")
]
ValSplit = Annotated[float | None, typer.Option("--val-split", help="Share of the text kept for validation.")]
ValFile = Annotated[str | None, typer.Option("--val-file", help="Validate on this text instead of a share.")]
SplitSeed = Annotated[int | None, typer.Option("--split-seed", help="Reshuffles which documents are kept back.")]
SeqLen = Annotated[int | None, typer.Option("--seq-len", help="Context in tokens.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Windows in one forward pass.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, ...")]
UseMemory = Annotated[
    bool, typer.Option("--memory", help="Let what was taught, and n-grams of the training text, have a say.")
]
Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        help="plain: a token a pass; exact: several, with the same text; draft: a guess in one pass, with its loss.",
    ),
]
Space = Annotated[str, typer.Option("--space", help="Named spaces never see each other.")]
Source = Annotated[str | None, typer.Option("--source", help="Label that says where a memory is from.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, such as training.learning_rate=3e-4."),
]


def read_pairs(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Return NAME=VALUE words by name; a value that is JSON counts as that, any other as text."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UserError(f"{option} must look like name=value; got '{pair}'.")
        if name in values:
            raise UserError(f"{option} must give each name once; got {name} twice. Leave one of them out.")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def gather(overrides: list[str] | None, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings: flags that were given, then `--set` on top."""
    # pydantic takes a tenth of a second, and --help must not.
    from rhapsode.config import merge, parse_overrides

    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in sections.items()
    }
    return merge({name: values for name, values in given.items() if values}, parse_overrides(overrides or []))


@contextmanager
def name_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Let errors name flags in place of what these become, which whoever typed them has never heard of.

    Args:
        flags: what a message may say, such as `embed.dim`, and what to say instead, such as `--embedding-dim`.
    """
    try:
        yield
    except RhapsodeError as error:
        # the longest name first, and whole names only: embed.dim is no part of embed.dims.
        names = "|".join(re.escape(name) for name in sorted(flags, key=len, reverse=True))
        found = re.compile(rf"(?<![\w./-])(?:{names})(?![\w-]|\.\w)")
        error.args = (found.sub(lambda match: flags[match[0]], str(error)),)
        raise


def split_tokenizer(name: str | None) -> tuple[str | None, str | None]:
    """Tell a kind of tokenizer from the path of a saved one: (kind, path).

    A name with a slash or an ending is a path; everything else is a kind, checked later.
    """
    if name is None:
        return None, None
    return (None, name) if "/" in name or "." in name else (name, None)

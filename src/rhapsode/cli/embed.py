"""rhapsode embed train | nearest | search"""

from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table, say
from rhapsode.errors import UserError

app = typer.Typer(help="Train a compressed embedding by itself, and look around in its space.", no_args_is_help=True)
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="What embed train wrote.")]
Count = Annotated[int, typer.Option("--top", min=1, help="How many to show.")]


@app.command("train")
def train(
    out: Annotated[str | None, typer.Option("--out", help="Folder to write; default: saguaro/artifacts.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and 100 steps: under a minute.")] = False,
    data: Annotated[str | None, typer.Option("--data", help="synthetic, or text as for train.")] = None,
    curriculum: Annotated[
        str | None, typer.Option("--curriculum", help="Text of a curriculum (rhapsode list curricula), or a TOML file.")
    ] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="addressing, old, distil or skip_gram.")] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Run whose table is distilled.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="A saved tokenizer to use again.")] = None,
    vocab_size: Annotated[int | None, typer.Option("--vocab-size", help="Ids, or their cap for text; 50257.")] = None,
    embedding_dim: Annotated[int | None, typer.Option("--embedding-dim", help="Width of a vector; 256.")] = None,
    num_bundles: Annotated[int | None, typer.Option("--num-bundles", help="Rows of the store; 256.")] = None,
    num_hashes: Annotated[int | None, typer.Option("--num-hashes", help="Rows that each id is spread over; 1.")] = None,
    algebra: Annotated[str | None, typer.Option("--algebra", help="holographic, sign_flip or gaussian.")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimizer steps; 5000.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Ids or pairs of a step; 1024.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak rate; 1e-4.")] = None,
    warmup_steps: Annotated[int | None, typer.Option("--warmup-steps", help="Steps of the rise; 100.")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Evaluations without an improvement before stopping.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides keys, weights and data.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    overrides: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train a holographic embedding: a small store of bundles that is read with keys from a seed.

    Any setting of its own can follow --set, such as spectral=log_det or negatives=512.
    """
    from rhapsode.config import parse_overrides

    if data is not None and curriculum is not None:
        raise UserError("--data and --curriculum must not be given together. Leave one of them out.")
    if resume and overwrite:
        raise UserError("--resume and --overwrite must not be given together. Leave one of them out.")
    given: dict[str, Any] = {
        "objective": objective,
        "vocab_size": vocab_size,
        "dim": embedding_dim,
        "num_bundles": num_bundles,
        "num_hashes": num_hashes,
        "algebra": algebra,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "patience": patience,
        "seed": seed,
    }
    assigned = parse_overrides(overrides or [])
    settings = {name: value for name, value in given.items() if value is not None} | assigned
    flags = _flags(set(given) - set(assigned), curriculum, tokenizer)
    from rhapsode.api.embedding import train_embedding

    with options.name_flags(flags):
        result = train_embedding(
            out=out or "saguaro/artifacts",
            data=f"curriculum:{curriculum}" if curriculum is not None else data or "synthetic",
            teacher=teacher,
            tokenizer=tokenizer,
            quick=quick,
            resume=resume,
            overwrite=overwrite,
            say=say,
            **settings,
        )
    (print_json if json else print_table)(result)


def _flags(settings: set[str], curriculum: str | None, tokenizer: str | None) -> dict[str, str]:
    """Return what errors of a training may call the flags; `settings` are those that no `--set` has given."""
    names = {name: "--embedding-dim" if name == "dim" else f"--{name.replace('_', '-')}" for name in settings}
    flags = {f"{owner}.{name}": flag for name, flag in names.items() for owner in ("embed", "model.holographic")}
    if "vocab_size" in names:
        flags["tokenizer.max_vocab_size"] = names["vocab_size"]
    flags["RUN must"] = "--teacher must"
    if curriculum is not None:
        flags |= {"the curriculum": "--curriculum", "a curriculum must": "--curriculum must", "--data": "--curriculum"}
        flags[f"{curriculum} must"] = f"--curriculum {curriculum} must"
    if tokenizer is not None:
        flags[f"{tokenizer} must"] = f"--tokenizer {tokenizer} must"
    return flags


@app.command("nearest")
def nearest(
    folder: Folder,
    word: Annotated[str, typer.Argument(help="A word.")],
    top: Count = 10,
    json: options.Json = False,
) -> None:
    """Show the words nearest to a word."""
    from rhapsode.api.embedding import nearest_words

    _show(nearest_words(folder, word, top), json)


@app.command("search")
def search(
    folder: Folder,
    query: Annotated[str, typer.Argument(help="A word or a sentence.")],
    sources: options.Sources,
    top: Count = 5,
    json: options.Json = False,
) -> None:
    """Show the paragraphs of some text that are nearest to a query."""
    from rhapsode.api.embedding import search_text

    _show(search_text(folder, query, sources, top), json)


def _show(found: list[Any], as_json: bool) -> None:
    if as_json:
        print_json({"found": [{"text": one.text, "score": one.score} for one in found]})
        return
    for one in found:
        print(f"{one.score:.3f}  {one.text}")

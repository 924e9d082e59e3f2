"""rhapsode tokenizer train | stats | export"""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table, say
from rhapsode.errors import UserError

app = typer.Typer(
    help="Train a tokenizer by itself, say how well one packs text, or write it for other libraries.",
    no_args_is_help=True,
)
Saved = Annotated[str, typer.Argument(metavar="TOKENIZER", help="A tokenizer.json.")]


@app.command("train")
def train(
    sources: options.Sources,
    out: Annotated[str, typer.Option("--out", help="File to write, such as tokenizer.json.")],
    kind: Annotated[str, typer.Option("--kind", help="bytes, chars, bpe or ngram.")] = "bpe",
    max_vocab_size: options.VocabSize = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="ngram: shortest (default) or greedy.")] = None,
    json: options.Json = False,
) -> None:
    """Learn a vocabulary from text."""
    from rhapsode.config import build_config
    from rhapsode.text.config import DataConfig, TokenizerConfig
    from rhapsode.text.split import open_sources
    from rhapsode.text.tokenizer import train_tokenizer

    folder = Path(out).parent
    if Path(out).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--out must name a file in a folder that can be written; got {out}. Choose another --out.")
    settings = {"kind": kind, "max_vocab_size": max_vocab_size, "encoding": encoding}
    config = build_config(TokenizerConfig, settings, "tokenizer")
    split = open_sources(sources, DataConfig())
    started = time.perf_counter()
    trained = train_tokenizer(split.texts("train"), config, say)
    trained.save(out)
    result = {"out": out, "vocab_size": trained.vocab_size, "seconds": round(time.perf_counter() - started, 2)}
    (print_json if json else print_table)(result)


@app.command("stats")
def stats(
    path: Saved,
    sources: Annotated[list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Text, as of train.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Text as well; may be repeated.")] = None,
    json: options.Json = False,
) -> None:
    """Say how many bytes of text one token stands for, how fast text is encoded, and how many ids it never needs."""
    import numpy as np

    from rhapsode.text.prepare import encode_sources
    from rhapsode.text.tokenizer import NUM_SPECIALS, load_tokenizer

    loaded = load_tokenizer(path)
    # what is compiled or built at first use is no part of the speed.
    loaded.encode("a text to begin with")
    started = time.perf_counter()
    tokens = encode_sources([*(sources or []), *(data or [])], loaded)
    seconds = time.perf_counter() - started
    counts = np.bincount(tokens.ids, minlength=loaded.vocab_size)[NUM_SPECIALS:]
    content = int(counts.sum())
    result = {
        "kind": loaded.kind,
        "vocab_size": loaded.vocab_size,
        "bytes": tokens.num_bytes,
        "tokens": content,
        "bytes_per_token": tokens.num_bytes / max(1, content),
        "mb_per_s": tokens.num_bytes / 1e6 / max(seconds, 1e-9),
        "unused": int((counts == 0).sum()),
    }
    (print_json if json else print_table)(result)


@app.command("export")
def export(
    path: Saved,
    out: Annotated[str, typer.Option("--out", help="File to write, for Hugging Face tokenizers.")],
    json: options.Json = False,
) -> None:
    """Write a tokenizer as the tokenizer.json of Hugging Face tokenizers, with the same ids."""
    from rhapsode.text.export import export_tokenizer
    from rhapsode.text.tokenizer import load_tokenizer

    loaded = load_tokenizer(path)
    model = export_tokenizer(loaded, out)
    result = {"out": out, "kind": loaded.kind, "vocab_size": loaded.vocab_size, "model": model}
    (print_json if json else print_table)(result)

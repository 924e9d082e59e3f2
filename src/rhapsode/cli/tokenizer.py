"""rhapsode tokenizer train | stats"""

import time
from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table

app = typer.Typer(help="Train a tokenizer by itself, or say how well one packs text.", no_args_is_help=True)


@app.command("train")
def train(
    sources: options.Sources,
    out: Annotated[str, typer.Option("--out", help="File to write, such as tokenizer.json.")],
    kind: Annotated[str, typer.Option("--kind", help="bytes, chars or bpe.")] = "bpe",
    max_vocab_size: options.VocabSize = None,
    json: options.Json = False,
) -> None:
    """Learn a vocabulary from text."""
    from rhapsode.config import build_config
    from rhapsode.text.config import DataConfig, TokenizerConfig
    from rhapsode.text.split import open_sources
    from rhapsode.text.tokenizer import train_tokenizer

    settings = {"kind": kind, "max_vocab_size": max_vocab_size}
    config = build_config(TokenizerConfig, settings, "tokenizer")
    split = open_sources(sources, DataConfig())
    started = time.perf_counter()
    trained = train_tokenizer(split.texts("train"), config)
    trained.save(out)
    result = {"out": out, "vocab_size": trained.vocab_size, "seconds": round(time.perf_counter() - started, 2)}
    (print_json if json else print_table)(result)


@app.command("stats")
def stats(
    path: Annotated[str, typer.Argument(metavar="TOKENIZER", help="A tokenizer.json.")],
    sources: options.Sources,
    json: options.Json = False,
) -> None:
    """Say how many bytes of text one token stands for, and how fast text is encoded."""
    from rhapsode.text.prepare import encode_sources
    from rhapsode.text.tokenizer import load_tokenizer

    loaded = load_tokenizer(path)
    started = time.perf_counter()
    tokens = encode_sources(sources, loaded)
    seconds = time.perf_counter() - started
    content = int((loaded.num_bytes[tokens.ids] > 0).sum())
    result = {
        "kind": loaded.kind,
        "vocab_size": loaded.vocab_size,
        "bytes": tokens.num_bytes,
        "tokens": content,
        "bytes_per_token": tokens.num_bytes / max(1, content),
        "mb_per_s": tokens.num_bytes / 1e6 / max(seconds, 1e-9),
    }
    (print_json if json else print_table)(result)

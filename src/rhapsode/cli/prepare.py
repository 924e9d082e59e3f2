"""rhapsode prepare"""

import time
from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table, say


def prepare(
    sources: options.Sources,
    out: Annotated[str, typer.Option("--out", help="New folder for the shards.")],
    tokenizer: options.TokenizerName = None,
    max_vocab_size: options.VocabSize = None,
    val_split: options.ValSplit = None,
    val_file: options.ValFile = None,
    split_seed: options.SplitSeed = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Threads; default one a core.")] = None,
    json: options.Json = False,
) -> None:
    """Encode text once into memory-mapped shards, so that every later training starts at once."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from rhapsode.config import build_config
    from rhapsode.text.config import DataConfig, TokenizerConfig
    from rhapsode.text.prepare import prepare as encode
    from rhapsode.text.split import open_sources
    from rhapsode.text.tokenizer import load_tokenizer, train_tokenizer

    kind, path = options.split_tokenizer(tokenizer)
    settings = options.gather(
        None,
        tokenizer={"kind": kind, "max_vocab_size": max_vocab_size},
        data={"val_split": val_split, "val_file": val_file, "split_seed": split_seed},
    )
    config = build_config(TokenizerConfig, settings.get("tokenizer", {}), "tokenizer")
    data = build_config(DataConfig, settings.get("data", {}), "data")
    split = open_sources(sources, data)
    chosen = load_tokenizer(path) if path is not None else train_tokenizer(split.texts("train"), config, say)
    started = time.perf_counter()
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("encode", total=None)
        corpus = encode(split, chosen, out, lambda done, total: bar.update(task, completed=done, total=total), workers)
    seconds = time.perf_counter() - started
    num_bytes = sum(split.num_bytes.values())
    result = {
        "out": out,
        "vocab_size": chosen.vocab_size,
        "tokens": {name: len(getattr(corpus, name)) for name in ("train", "validation", "calibration")},
        "bytes": num_bytes,
        "seconds": round(seconds, 2),
        "mb_per_s": round(num_bytes / 1e6 / max(seconds, 1e-9), 1),
        "data_hash": corpus.data_hash,
    }
    (print_json if json else print_table)(result)

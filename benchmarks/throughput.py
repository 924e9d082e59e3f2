"""Training tokens a second at equal shape: our recipes as they train by default, beside GPT-2 of transformers.

    python benchmarks/throughput.py [--rounds 5] [--steps 4] [--threads 2] [--skip-compiled-peer]

4 layers, 4 heads, width 256, 256 tokens in a window, 16 windows in a batch, 4,096 ids, drawn by Zipf's law.

    gpt, rhapsode     our recipes by our own training loop: compiled and in bfloat16 where that is the default
    gpt2 float32      GPT2LMHeadModel, eager, fused AdamW
    gpt2 bfloat16     the same under autocast
    gpt2 compiled     the same under autocast and torch.compile, which its users have to ask for

Everything runs in one process in turn, in another order each round, so that a busy moment falls on all alike;
a ratio is taken within a round. Compilation is outside the figures (its seconds are listed). Rhapsode has hashed
tables and a head of its own on top of the equal body, at the shares that its parameter budget would give them.

Takes about 3 minutes on two cores. Writes results/throughput.json.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from _common import num_cores, write_result
from _gpt2 import build_adamw, build_gpt2
from rhapsode.models.budget import TABLE_SHARE, count_parameters, solve_sizes
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import build_decoder
from rhapsode.runfolder import RunFolder
from rhapsode.text import TokenArray, WindowSampler
from rhapsode.training.config import load_recipe
from rhapsode.training.hardware import apply_hardware, resolve_hardware
from rhapsode.training.loop import Loop, Report
from rhapsode.training.optimizer import build_optimizers
from rhapsode.training.schedule import build_budget

VOCAB_SIZE, BATCH_SIZE, SEQ_LEN = 4_096, 16, 256
SHAPE = {"num_layers": 4, "num_heads": 4, "width": 256, "seq_len": SEQ_LEN}
OURS = ("gpt", "rhapsode")
GOALS = {"gpt2 float32": 3.0, "gpt2 bfloat16": 1.3}
# as long as a training by default.
PLANNED_SECONDS = 180.0
Row = dict[str, Any]
# runs so many steps, and returns when each ended, in seconds.
Runner = Callable[[int], list[float]]


def main() -> None:
    """Measure all in turn, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-compiled-peer", action="store_true", help="save its compilation")
    parser.add_argument("--name", default="throughput", help="write results/NAME.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(arguments, Path(folder))
    ratios = [compare(rows, ours, peer) for ours in OURS for peer in peers_of(rows)]
    goals = [
        {
            "what": f"{ratio['model']} over {ratio['over']}, tokens a second, at least",
            "value": ratio["ratio"],
            "limit": GOALS[ratio["over"]],
            "met": ratio["ratio"] >= GOALS[ratio["over"]],
        }
        for ratio in ratios
        if ratio["over"] in GOALS
    ]
    print_tables(rows, ratios, goals)
    path = write_result(
        arguments.name,
        [*rows, *ratios],
        title="Training throughput",
        note=f"Tokens a second at 4 layers, 4 heads, width 256, {SEQ_LEN} tokens, batch {BATCH_SIZE}, {VOCAB_SIZE} "
        "ids: median of interleaved rounds with the lowest and the highest. Ratios are taken within a round.",
        goals=goals,
        threads=arguments.threads,
        peers={"transformers": version("transformers")},
    )
    print(path)


def measure_all(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    """Compile all, then run the rounds; every row keeps its figure of each round, for the ratios."""
    if num_cores() < arguments.threads:
        print(f"warning: {arguments.threads} threads share {num_cores()} cores, so all is too slow", file=sys.stderr)
    tokens = zipf_tokens()
    rows, runners = [], []
    for row, runner in build_all(arguments, tokens, folder):
        started = time.perf_counter()
        # two steps: the first compiles, the second may find that something changed.
        runner(2)
        row["first_steps_s"] = round(time.perf_counter() - started, 1)
        print(row, file=sys.stderr)
        rows.append(row)
        runners.append(runner)
    rounds: list[list[float]] = [[] for _ in rows]
    for number in range(arguments.rounds):
        order = [(number + place) % len(rows) for place in range(len(rows))]
        for index in order:
            ends = runners[index](arguments.steps + 1)
            # the first step of a turn finds cold caches and is left out.
            rounds[index].append(arguments.steps * BATCH_SIZE * SEQ_LEN / (ends[-1] - ends[0]))
    for row, speeds in zip(rows, rounds, strict=True):
        row |= {"tokens_per_s": statistics.median(speeds), "lowest": min(speeds), "highest": max(speeds)}
        row["rounds"] = speeds
    return rows


def build_all(arguments: argparse.Namespace, tokens: TokenArray, folder: Path) -> Iterator[tuple[Row, Runner]]:
    """Yield what is measured: a row that says what it is, and its runner. One at a time, as each compiles."""
    for name in OURS:
        yield build_ours(name, arguments.threads, tokens, folder / name)
    yield build_peer("gpt2 float32", None, False, tokens)
    yield build_peer("gpt2 bfloat16", torch.bfloat16, False, tokens)
    if not arguments.skip_compiled_peer:
        yield build_peer("gpt2 compiled", torch.bfloat16, True, tokens)


def build_ours(name: str, threads: int, tokens: TokenArray, folder: Path) -> tuple[Row, Runner]:
    """Build a recipe at the shape, and a runner that is the training loop itself."""
    settings = {"batch_size": BATCH_SIZE, "threads": threads, "eval_every": 1_000_000, "eval_tokens": SEQ_LEN}
    recipe = load_recipe(name, {"model": SHAPE, "training": settings})
    model = build_decoder(with_tables(recipe.model), seed=0)
    hardware = resolve_hardware(recipe.training, PLANNED_SECONDS)
    apply_hardware(hardware)
    run = RunFolder(folder)
    run.create()
    reports: list[Report] = []
    loop = Loop(
        model=model,
        optimizers=build_optimizers(model, recipe.training),
        sampler=WindowSampler(tokens, SEQ_LEN, BATCH_SIZE, seed=0),
        validation=TokenArray(tokens.ids[: SEQ_LEN + 1], tokens.doc_starts, SEQ_LEN + 1),
        num_bytes=np.ones(VOCAB_SIZE, dtype=np.int64),
        config=recipe.training,
        budget=build_budget(recipe.training, BATCH_SIZE * SEQ_LEN, len(tokens)),
        hardware=hardware,
        folder=run,
        report=reports.append,
    )

    def runner(steps: int) -> list[float]:
        reports.clear()
        # the weights and the compiled code stay; only the budget begins anew.
        loop.budget = build_budget(recipe.training.model_copy(update={"steps": steps}), 1, 1)
        loop.train(resume=False)
        # the last report may come again, with the evaluation that ends a training.
        return [report.elapsed_s for report in reports[:steps]]

    precision = str(hardware.precision).removeprefix("torch.")
    row = {"model": name, "precision": precision, "compiled": hardware.compiled}
    return {"measure": "speed", **row, "parameters": model.num_parameters()}, runner


def with_tables(config: ModelConfig) -> ModelConfig:
    """Solve what the shape leaves open, hashed tables at the share of a budget that is theirs."""
    tables = config.hashed_ngrams.model_copy(update={"num_buckets": config.hashed_ngrams.num_buckets or 1})
    body = count_parameters(config.model_copy(update={"vocab_size": VOCAB_SIZE, "hashed_ngrams": tables}))
    return solve_sizes(config, math.ceil(body / (1 - TABLE_SHARE)) + 1, VOCAB_SIZE)


def build_peer(name: str, precision: torch.dtype | None, compiled: bool, tokens: TokenArray) -> tuple[Row, Runner]:
    """Build GPT-2 of the shape, and a runner with the plain loop of its users."""
    torch.manual_seed(0)
    model = build_gpt2(VOCAB_SIZE, **SHAPE)
    optimizer = build_adamw(model, 1e-3, (0.9, 0.95), weight_decay=0.1)
    sampler = WindowSampler(tokens, SEQ_LEN, BATCH_SIZE, seed=0)

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            logits = model(inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    loss_of = torch.compile(forward, dynamic=False) if compiled else forward

    def runner(steps: int) -> list[float]:
        started, ends = time.perf_counter(), []
        for step in range(steps):
            batch = sampler.batch(step)
            inputs, targets = (torch.from_numpy(np.ascontiguousarray(ids)) for ids in (batch.inputs, batch.targets))
            loss = loss_of(inputs, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            ends.append(time.perf_counter() - started)
        return ends

    num_parameters = sum(p.numel() for p in model.parameters())
    row = {"model": name, "precision": "bfloat16" if precision else "float32", "compiled": compiled}
    return {"measure": "speed", **row, "parameters": num_parameters}, runner


def zipf_tokens(num_tokens: int = 400_000) -> TokenArray:
    """Draw ids whose frequency falls as one over their rank, as that of words does."""
    weights = 1 / np.arange(1, VOCAB_SIZE + 1)
    ids = np.random.default_rng(0).choice(VOCAB_SIZE, size=num_tokens, p=weights / weights.sum())
    return TokenArray(ids.astype(np.uint16), np.zeros(1, dtype=np.int64), num_tokens)


def peers_of(rows: list[Row]) -> list[str]:
    return [row["model"] for row in rows if row["model"] not in OURS]


def compare(rows: list[Row], ours: str, peer: str) -> Row:
    """Return our speed over a peer's: median, lowest and highest of the rounds."""
    by_name = {row["model"]: row["rounds"] for row in rows}
    ratios = [mine / theirs for mine, theirs in zip(by_name[ours], by_name[peer], strict=True)]
    figures = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {"measure": "ratio", "model": ours, "over": peer, **figures}


def print_tables(rows: list[Row], ratios: list[Row], goals: list[Row]) -> None:
    console = Console()
    table = Table("model", "tokens/s", "lowest", "highest", "parameters", "first steps, s", title="Tokens a second")
    for row in rows:
        speeds = [f"{row[name]:,.0f}" for name in ("tokens_per_s", "lowest", "highest")]
        table.add_row(row["model"], *speeds, f"{row['parameters']:,}", f"{row['first_steps_s']}")
    console.print(table)
    table = Table("model", "over", "ratio", "lowest", "highest", title="Ratios")
    for ratio in ratios:
        table.add_row(ratio["model"], ratio["over"], *(f"{ratio[name]:.2f}" for name in ("ratio", "lowest", "highest")))
    console.print(table)
    for goal in goals:
        console.print(f"goal {'met' if goal['met'] else 'missed'}: {goal['what']} {goal['limit']}: {goal['value']:.2f}")


if __name__ == "__main__":
    main()

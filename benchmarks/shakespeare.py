"""How well a model of Tiny Shakespeare gets in minutes on two threads, beside nanoGPT's CPU recipe and n-gram counts.

    python benchmarks/shakespeare.py [--data PATH] [--seconds 180] [--seeds 1] [--skip-peers] [--settings NAME=VALUE]

Characters; the last 10 % of the text validates; static nats per character (nothing is learnt from the scored text).
In turn, each in a fresh process, so that memory and compilation are its own:

    counts    Kneser-Ney, order 8, three discounts per order
    nanogpt   nanoGPT's CPU recipe from Hugging Face GPT-2 parts, 2,000 steps in float32
    rhapsode  the default recipe in --seconds
    rhapsode  the default recipe in the seconds that nanogpt took

Each training starts with an empty compile cache, and compilation is part of its seconds, as is every periodic
evaluation; --warm uses the cache that is there instead. Of our 90 %, 2 % of the text is kept back as calibration
text; counts and nanogpt train on all of it. Ours takes the best of eight evaluations, nanogpt its last weights.

Takes about 7 minutes a seed with the defaults on two cores. Writes results/shakespeare.json.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from _common import num_cores, write_result

DATA = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
VAL_SPLIT = 0.1
ORDER = 8
SECONDS = 180.0
PEER_NAME = "nanoGPT's CPU recipe"
PEER_STEPS = 2_000
PEER = {"num_layers": 4, "num_heads": 4, "width": 128, "seq_len": 64}
PEER_BATCH = 12
PEER_RATE, PEER_LAST_RATE, PEER_WARMUP = 1e-3, 1e-4, 100
GOALS = {"fixed": 1.46, "equal": 1.62}
# of the stored keys, those that the table of docs/results.md shows.
COLUMNS = ["model", "seed", "seconds", "nats_per_char", "interval", "disjoint_nats_per_char", "parameters", "shape"]
COLUMNS += ["steps", "tokens_per_s", "precision", "compiled", "compile_cache", "size_mb", "peak_mb", "cores"]
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Row = dict[str, Any]


def main() -> None:
    """Run every row, print the table and write the result."""
    arguments = parse_arguments()
    if arguments.measure:
        spec = json.loads(arguments.measure)
        print(json.dumps({**MEASURES[spec.pop("measure")](**spec), "peak_mb": peak_mb(), "cores": num_cores()}))
        return
    if not arguments.data.is_file():
        sys.exit(f"--data must name the text of Tiny Shakespeare; got {arguments.data}, which is no file.")
    rows = measure_all(arguments)
    summary = summarise(rows) if arguments.seeds > 1 else []
    goals = judge(rows, arguments)
    print_table(rows, summary, goals)
    path = write_result(
        arguments.name,
        [*rows, *summary],
        columns={"run": COLUMNS},
        title="Tiny Shakespeare",
        note="Static nats per character on the last 10 %, lower is better. Sliding: windows that move on by a quarter "
        "of the context; disjoint: windows that do not overlap. Intervals (95 %) are of one training's figure over "
        "the text; they do not hold how much a training varies by its seed.",
        goals=goals,
        seeds=arguments.seeds,
        settings=arguments.settings,
        data_sha256=hashlib.sha256(arguments.data.read_bytes()).hexdigest(),
        peers={} if arguments.skip_peers else {"transformers": version("transformers")},
    )
    print(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the text (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="budget of the default recipe")
    parser.add_argument("--seeds", type=int, default=1, choices=range(1, 11), help="seeds 0, 1, ... of every training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-peers", action="store_true", help="leave out nanogpt, and the row that takes its time")
    parser.add_argument("--peer-steps", type=int, default=PEER_STEPS, help="fewer, to try the script")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME=VALUE", help="on top of the default recipe")
    parser.add_argument("--warm", action="store_true", help="use the compile cache that is there, not an empty one")
    parser.add_argument("--name", default="shakespeare", help="write results/NAME.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """Run every row in turn, each seed's trainings one after the other, so that they can be paired."""
    common = {"data": str(arguments.data), "threads": arguments.threads}
    rows = [child(arguments, "counts", {"model": f"Kneser-Ney, order {ORDER}"}, data=common["data"])]
    for seed in range(arguments.seeds):
        ours = {**common, "seed": seed, "settings": arguments.settings}
        if not arguments.skip_peers:
            head = {"model": f"{PEER_NAME}, GPT-2 of transformers", "seed": seed}
            rows.append(child(arguments, "nanogpt", head, **common, seed=seed, steps=arguments.peer_steps))
        head = {"model": "rhapsode", "seed": seed, "budget": "fixed"}
        rows.append(child(arguments, "rhapsode", head, **ours, seconds=arguments.seconds))
        if not arguments.skip_peers:
            head = {"model": "rhapsode, in nanoGPT's seconds", "seed": seed, "budget": "equal"}
            rows.append(child(arguments, "rhapsode", head, **ours, seconds=rows[-2]["seconds"]))
    return rows


def child(arguments: argparse.Namespace, measure: str, head: Row, **spec: Any) -> Row:
    """Measure in a fresh process, with an empty compile cache unless --warm."""
    cache = tempfile.mkdtemp(prefix="rhapsode-compile-")
    environment = dict(os.environ) if arguments.warm else {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--measure", json.dumps({"measure": measure, **spec})]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    cache_state = {"compile_cache": "warm" if arguments.warm else "empty"} if figures.get("compiled") else {}
    row = {"measure": "run", **head, **figures, **cache_state}
    if spec.get("threads", 1) > row["cores"]:
        print(
            f"warning: {spec['threads']} threads shared {row['cores']} cores, so seconds are too long", file=sys.stderr
        )
    print(row, file=sys.stderr)
    return row


def measure_counts(data: str) -> Row:
    """Count n-grams of the first 90 %, score the rest."""
    from rhapsode.memory import KneserNey

    train, other, vocab_size = read_chars(data)
    started = time.perf_counter()
    model = KneserNey.fit(train, vocab_size, ORDER)
    seconds = time.perf_counter() - started
    # the first character has no context in this text and is scored by no model.
    nats = -model.log_prob(other)[1:]
    return {"nats_per_char": float(nats.mean()), "interval": interval(nats), "n": len(nats), "seconds": seconds} | {
        "size_mb": model.size_bytes / 1e6
    }


def measure_nanogpt(data: str, threads: int, seed: int, steps: int) -> Row:
    """Train GPT-2 as nanoGPT's README does on a CPU (`train.py config/train_shakespeare_char.py --device=cpu`)."""
    import torch

    from _gpt2 import build_adamw, build_gpt2

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    train, other, vocab_size = read_chars(data)
    model = build_gpt2(vocab_size, **PEER)
    optimizer = build_adamw(model, PEER_RATE, (0.9, 0.99), weight_decay=0.1)
    rng = np.random.default_rng(seed)
    seq_len = PEER["seq_len"]
    windows = np.lib.stride_tricks.sliding_window_view(train, seq_len + 1)
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peer_rate(step, steps)
        batch = torch.from_numpy(windows[rng.integers(len(windows), size=PEER_BATCH)].astype(np.int64))
        logits = model(batch[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    sliding, disjoint = (score_gpt2(model, other, stride) for stride in (seq_len // 4, seq_len))
    num_parameters = sum(p.numel() for p in model.parameters())
    return {
        "nats_per_char": float(sliding.mean()),
        "interval": interval(sliding),
        "disjoint_nats_per_char": float(disjoint.mean()),
        "n": len(sliding),
        "seconds": seconds,
        "steps": steps,
        "tokens_per_s": steps * PEER_BATCH * seq_len / seconds,
        "parameters": num_parameters,
        "size_mb": num_parameters * 4 / 1e6,
        "precision": "float32",
        "compiled": False,
    }


def peer_rate(step: int, steps: int) -> float:
    """nanoGPT's schedule: a linear rise, then a cosine down to the last rate."""
    if step < PEER_WARMUP:
        return PEER_RATE * (step + 1) / (PEER_WARMUP + 1)
    share = (step - PEER_WARMUP) / max(1, steps - PEER_WARMUP)
    return PEER_LAST_RATE + 0.5 * (1 + math.cos(math.pi * share)) * (PEER_RATE - PEER_LAST_RATE)


def score_gpt2(model: Any, ids: np.ndarray, stride: int) -> np.ndarray:
    """Score every character but the first, with the windows that our own figure uses."""
    import torch

    from rhapsode.text import TokenArray, sliding_windows

    tokens = TokenArray(ids, np.zeros(1, dtype=np.int64), len(ids))
    pieces = []
    with torch.inference_mode():
        for inputs, targets, mask in sliding_windows(tokens, PEER["seq_len"], stride, 64):
            logits = model(torch.from_numpy(inputs)).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none"
            )
            pieces.append(losses.view(targets.shape).numpy()[mask])
    return np.concatenate(pieces).astype(np.float64)


def measure_rhapsode(data: str, threads: int, seed: int, settings: list[str], seconds: float) -> Row:
    """Train the default recipe, as `rhapsode train DATA --tokenizer chars --val-split 0.1 --minutes ...` does."""
    import rhapsode.api as api
    from rhapsode.config import merge, parse_overrides
    from rhapsode.runfolder import RunFolder

    chosen = {
        "tokenizer": {"kind": "chars"},
        "data": {"val_split": VAL_SPLIT},
        "training": {"minutes": seconds / 60, "threads": threads, "seed": seed},
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        results = api.train([data], out=out, settings=merge(chosen, parse_overrides(settings)))
        model = api.load(out, device="cpu")
        disjoint = model.evaluate("perplexity", stride=model.recipe.model.seq_len)
        hardware = model.header["hardware"]
        size_bytes = RunFolder(out).model.stat().st_size
    # the text is ASCII, so a byte is a character; bits per byte leave out the mark at the text's end.
    ln2 = math.log(2)
    return {
        "nats_per_char": results.val_bits_per_byte * ln2,
        "interval": [bound * ln2 for bound in results.interval],
        "disjoint_nats_per_char": disjoint.bits_per_byte * ln2,
        "nats_per_token": results.val_nats_per_token,
        # without the mark.
        "n": results.n - 1,
        "seconds": results.seconds,
        "setup_s": results.setup_seconds,
        "steps": results.steps,
        "best_step": results.best_step,
        "tokens_per_s": results.tokens_per_s,
        "parameters": results.parameters,
        "size_mb": size_bytes / 1e6,
        "precision": hardware["precision"],
        "compiled": hardware["compile"],
        "shape": model.recipe.model.model_dump(include={"width", "num_layers", "num_heads", "seq_len"}),
    }


def read_chars(data: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the first 90 % and the last 10 % as ids of the characters that occur, and how many there are."""
    characters, ids = np.unique(np.frombuffer(Path(data).read_bytes(), dtype=np.uint8), return_inverse=True)
    if characters[-1] > 127:
        sys.exit(f"--data must be ASCII, so that bytes are characters; got {data}.")
    cut = int(len(ids) * (1 - VAL_SPLIT))
    ids = ids.astype(np.uint16)
    return ids[:cut], ids[cut:], len(characters)


def interval(nats: np.ndarray) -> list[float]:
    from rhapsode.ops.statistics import ratio_interval

    return list(ratio_interval(nats, np.ones(len(nats))))


def peak_mb() -> float | None:
    """Peak memory of this process in megabytes, on Linux. getrusage would report the parent's if that was larger."""
    status = Path("/proc/self/status")
    return round(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1) if status.exists() else None


def summarise(rows: list[Row]) -> list[Row]:
    """Return mean and 95 % interval over the seeds of each training, and of the paired difference to nanogpt."""
    by_model: dict[str, list[float]] = {}
    for row in rows:
        if "seed" in row:
            by_model.setdefault(row["model"], []).append(row["nats_per_char"])
    summary = [{"model": model, **over_seeds(figures)} for model, figures in by_model.items()]
    names = list(by_model)
    if len(names) == 3:
        peer, _, equal = by_model.values()
        paired = [ours - theirs for ours, theirs in zip(equal, peer, strict=True)]
        summary.append({"model": f"{names[2]}, minus nanoGPT, paired", **over_seeds(paired)})
    return [{"measure": "over seeds", **row} for row in summary]


def over_seeds(figures: list[float]) -> Row:
    half = STUDENT[len(figures) - 2] * float(np.std(figures, ddof=1)) / math.sqrt(len(figures))
    mean = float(np.mean(figures))
    return {"nats_per_char": mean, "interval": [mean - half, mean + half], "seeds": len(figures)}


def judge(rows: list[Row], arguments: argparse.Namespace) -> list[Row]:
    """Compare the means with the goals; a goal is judged only at the budget that it is meant for."""
    goals = []
    as_meant = {"fixed": arguments.seconds == SECONDS, "equal": arguments.peer_steps == PEER_STEPS}
    words = {"fixed": f"default recipe in {SECONDS:g} s", "equal": "default recipe in nanoGPT's seconds"}
    peer = [row["nats_per_char"] for row in rows if row["model"].startswith(PEER_NAME)]
    for budget, limit in GOALS.items():
        figures = [row["nats_per_char"] for row in rows if row.get("budget") == budget]
        if figures and as_meant[budget]:
            value = float(np.mean(figures))
            what = f"{words[budget]}, nats per character, at most"
            beside = f"{PEER_NAME} {np.mean(peer):.4f}" if peer else None
            goals.append({"what": what, "value": value, "limit": limit, "met": value <= limit, "beside": beside})
    return goals


def print_table(rows: list[Row], summary: list[Row], goals: list[Row]) -> None:
    columns = ("model", "seed", "seconds", "sliding", "95 %", "disjoint", "parameters", "peak MB")
    table = Table(*columns, title="Nats per character")
    for row in [*rows, *summary]:
        low, high = row["interval"]
        figures = [f"{row['nats_per_char']:.4f}", f"{low:.3f} to {high:.3f}"]
        disjoint = f"{row['disjoint_nats_per_char']:.4f}" if "disjoint_nats_per_char" in row else ""
        seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
        seed = str(row.get("seed", f"{row['seeds']} seeds" if "seeds" in row else ""))
        last = [f"{row['parameters']:,}" if "parameters" in row else "", f"{row.get('peak_mb') or ''}"]
        table.add_row(row["model"], seed, seconds, *figures, disjoint, *last)
    # a log has no width; names should not be broken for its sake.
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for goal in goals:
        console.print(f"goal {'met' if goal['met'] else 'missed'}: {goal['what']} {goal['limit']}: {goal['value']:.4f}")


MEASURES: dict[str, Callable[..., Row]] = {
    "counts": measure_counts,
    "nanogpt": measure_nanogpt,
    "rhapsode": measure_rhapsode,
}


if __name__ == "__main__":
    main()

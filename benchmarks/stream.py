"""A text of ten million tokens read by a model that streams: memory and speed must not depend on what was read before.

    python benchmarks/stream.py [--quick] [--run RUN] [--params 300k]

`score`: every token predicted, in windows behind bundles of all before them. `state`: the state alone, moved on and
made into bundles every 128 tokens. Rows go to results/stream.json: resident memory and tokens a second since the mark
before.
The text is Python's standard library, over and over, with two timescales beside the latest bundles.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import torch

from _common import num_cores, write_result
from rhapsode import api
from rhapsode.config import parse_count
from rhapsode.models.budget import solve_sizes
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.models.streaming import score_stream
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.config import load_recipe
from rhapsode.training.data import choose_tokenizer, encode_data, open_data

MARKS = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK_MARKS = (1_000, 2_000, 4_000, 8_000)
PIECE = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a trained run; without it, fresh weights, whose bits say nothing")
    parser.add_argument("--params", default="300k")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(num_cores())
    torch.set_flush_denormal(True)
    model, tokenizer = open_model(arguments.run, parse_count(arguments.params, "--params"))
    data = open_data(["stdlib"], DataConfig())
    ids = np.asarray(encode_data(data, tokenizer).train.ids)
    # one document: a start would empty the stream.
    ids = ids[ids > 2]
    marks = QUICK_MARKS if arguments.quick else MARKS
    rows = [*mark("score", score(model, ids, marks[-1]), marks), *mark("state", move(model, ids, marks[-1]), marks)]
    goals = [
        {
            "what": f"{kind}: {name} at {marks[-1]:,} tokens over that at {marks[1]:,}, {bound}",
            "limit": limit,
            "value": value,
            "met": value <= limit if bound == "at most" else value >= limit,
        }
        for kind in ("score", "state")
        for name, bound, limit in (("memory_mb", "at most", 1.05), ("tokens_per_s", "at least", 0.9))
        for value in [ratio(rows, kind, name)]
    ]
    note = f"{model.num_parameters():,} parameters, state of {state_bytes(model):,} bytes."
    if arguments.quick:
        print(goals)
        return
    write_result("stream", rows, title="A stream of ten million tokens", goals=goals, note=note)


def open_model(run: str | None, params: int) -> tuple[Decoder, Tokenizer]:
    if run is not None:
        loaded = api.load(run)
        return loaded.decoder, loaded.tokenizer
    recipe = load_recipe("hsmn", {"model": {"hypervector_stream": {"timescales": [512.0, 8192.0]}}})
    data = open_data(["stdlib"], DataConfig())
    tokenizer = choose_tokenizer(data, TokenizerConfig(kind="bpe", max_vocab_size=1024), None)
    return build_decoder(solve_sizes(recipe.model, params, tokenizer.vocab_size), 0).requires_grad_(False), tokenizer


def state_bytes(model: Decoder) -> int:
    state = model.embedder.start(1)
    return state.recent.numel() * state.recent.element_size() + state.decayed.numel() * state.decayed.element_size()


def pieces(ids: np.ndarray, total: int) -> Iterator[np.ndarray]:
    """Yield the text over and over."""
    for start in range(0, total, PIECE):
        yield np.take(ids, np.arange(start, start + PIECE), mode="wrap")


def score(model: Decoder, ids: np.ndarray, total: int) -> Iterator[int]:
    read = 0
    for _ in score_stream(model, pieces(ids, total)):
        read += PIECE
        yield read


def move(model: Decoder, ids: np.ndarray, total: int) -> Iterator[int]:
    state, read = model.embedder.start(1), 0
    for piece in pieces(ids, total):
        for part in torch.from_numpy(piece.astype(np.int64))[None].split(128, dim=1):
            state = model.embedder.advance(state, part)
            model.embedder.bundles(state)
        read += len(piece)
        yield read


def mark(kind: str, counts: Iterator[int], marks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Read to the end and note memory and speed at each mark."""
    rows: list[dict[str, Any]] = []
    process = psutil.Process()
    began, before = time.perf_counter(), 0
    for count in counts:
        if len(rows) < len(marks) and count >= marks[len(rows)]:
            now = time.perf_counter()
            rows.append(
                {
                    "measure": kind,
                    "tokens": count,
                    "memory_mb": round(process.memory_info().rss / 1e6, 1),
                    "tokens_per_s": round((count - before) / (now - began)),
                }
            )
            print(rows[-1], flush=True)
            began, before = now, count
    return rows


def ratio(rows: list[dict[str, Any]], kind: str, name: str) -> float:
    """The last mark's figure over the second's; the first still warms up."""
    values = [row[name] for row in rows if row["measure"] == kind]
    return round(values[-1] / values[1], 3)


if __name__ == "__main__":
    main()

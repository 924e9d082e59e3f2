"""What token memories add to a trained model: nats per character with counts that stay and with counts that grow.

    rhapsode train tinyshakespeare.txt --tokenizer chars --val-split 0.1 --minutes 3 --out runs/shakespeare
    python benchmarks/online.py --run runs/shakespeare --stream wikitext2-valid.txt

Static: the memories hold the training text; gates are fitted on the calibration text and frozen. Online: each token is
scored first, then learnt by memories and gates; gates start from what they were on the calibration text, read the same
way. The validation text of the run is read once for all columns, then the stream. About half an hour on two cores.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import rhapsode
from _common import write_result
from rhapsode.config import build_config
from rhapsode.memory.knn_memory import KNNMemory, fit_temperature
from rhapsode.memory.knn_search import KNNBase
from rhapsode.memory.ngram_base import build_ngram_base
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.memory.token_contracts import AnyTokenMemory, TokenPredictions
from rhapsode.models.gate import Gate, GateInputs, fit_gate, gate_inputs
from rhapsode.models.mixture import collect_vectors, read_beside
from rhapsode.models.scoring import score_tokens
from rhapsode.ops.statistics import ratio_interval
from rhapsode.text.prepare import encode_sources
from rhapsode.text.shards import TokenArray
from rhapsode.training.config import Recipe
from rhapsode.training.data import encode_data, open_data

ORDER = 8
# the stream is learnt in rows of this length, so that the nearest-neighbour memory can forget the oldest.
ROW = 32_768
ROWS_OF_NEIGHBOURS = 3
# names of memories: counts of the training text; these and the text read; the text read alone; and their vectors.
STATIC_NGRAM, GROWING_NGRAM, OWN_NGRAM = "training n-grams", "all n-grams", "own n-grams"
STATIC_KNN, OWN_KNN = "training vectors", "own vectors"
STATIC = {
    "+ n-gram": (STATIC_NGRAM,),
    "+ kNN": (STATIC_KNN,),
    "+ all": (STATIC_NGRAM, STATIC_KNN),
}
ONLINE = {
    "+ n-gram": (STATIC_NGRAM, GROWING_NGRAM, OWN_NGRAM),
    "+ kNN": (STATIC_KNN, OWN_KNN),
    "+ all": (STATIC_NGRAM, GROWING_NGRAM, OWN_NGRAM, STATIC_KNN, OWN_KNN),
}
GOALS = (("static", 1.39), ("static", 1.35), ("online", 1.31), ("online", 1.20))
Row = dict[str, Any]


@dataclass
class Column:
    """One mixture that reads along: its gate, whether that learns, and the log-probabilities so far."""

    name: str
    memories: tuple[str, ...]
    fitted: Gate
    learns: bool
    log_probs: list[np.ndarray] = field(default_factory=list)

    def start(self) -> None:
        """Go back to the gate as it was fitted, and to no text."""
        self.gate, self.log_probs = self.fitted, []

    def read(self, inputs: GateInputs, targets: np.ndarray) -> None:
        if self.learns:
            scores, self.gate = self.gate.learn(inputs, targets)
        else:
            scores = self.gate.score(inputs, targets)
        self.log_probs.append(scores)


class Bench:
    """A run, its texts and the memories built of them."""

    def __init__(self, run: Path) -> None:
        self.model = rhapsode.load(run, device="cpu")
        self.decoder, self.tokenizer = self.model.decoder, self.model.tokenizer
        request = self.model.header["request"]
        opened = open_data(request["sources"], build_config(Recipe, request["recipe"]).data)
        if opened.data_hash != self.model.header["data_hash"]:
            sys.exit("--run must have been trained on text that is still there unchanged; it changed.")
        self.corpus = encode_data(opened, self.tokenizer)
        self.memories, self.seconds = self._build()

    def _build(self) -> tuple[dict[str, AnyTokenMemory], dict[str, float]]:
        vocab_size, train = self.tokenizer.vocab_size, self.corpus.train
        started = time.perf_counter()
        base = build_ngram_base(np.asarray(train.ids), vocab_size, ORDER)
        seconds = {"n-gram base": time.perf_counter() - started}
        started = time.perf_counter()
        stride = max(1, self.decoder.config.seq_len // 2)
        ids, vectors = collect_vectors(self.decoder, train, stride)
        seconds["training vectors"] = time.perf_counter() - started
        started = time.perf_counter()
        knn_base = KNNBase.build(ids, vectors)
        seconds["kNN base"] = time.perf_counter() - started
        dim = vectors.shape[1]
        neighbours = {STATIC_KNN: KNNMemory(vocab_size, dim, base=knn_base), OWN_KNN: KNNMemory(vocab_size, dim)}
        ids, vectors = collect_vectors(self.decoder, self.corpus.calibration)
        scores = -score_tokens(self.decoder, self.corpus.calibration)
        for name, memory in neighbours.items():
            learn_as = 1 if name == OWN_KNN else None
            memory.settings = fit_temperature(memory, ids, vectors, scores, learn_as=learn_as)
            log(f"{name}: temperature {memory.settings.temperature:.3g}")
        memories: dict[str, AnyTokenMemory] = {
            STATIC_NGRAM: NgramMemory(base, vocab_size),
            GROWING_NGRAM: NgramMemory(base, vocab_size),
            OWN_NGRAM: NgramMemory.empty(vocab_size, ORDER, base.discounts),
            **neighbours,
        }
        return memories, seconds

    def read(
        self, tokens: TokenArray, row: int
    ) -> Iterator[tuple[np.ndarray, dict[str, TokenPredictions], np.ndarray]]:
        """Read a text with all memories; those that learn learn it as `row`."""
        names = list(self.memories)
        learn_as = [None if name in (STATIC_NGRAM, STATIC_KNN) else row for name in names]
        for log_probs, found, ids in read_beside(self.decoder, tokens, list(self.memories.values()), learn_as):
            yield log_probs, dict(zip(names, found, strict=True)), ids

    def forget(self, row: int) -> None:
        for memory in self.memories.values():
            if row in memory.row_ids:
                memory.forget(row)

    def calibrated(self) -> list[Column]:
        """Fit the gate of every column on the calibration text, and forget it."""
        stretches = list(self.read(self.corpus.calibration, 1))
        self.forget(1)
        targets = np.concatenate([ids for _, _, ids in stretches])
        columns = []
        for learns, mixtures in ((False, STATIC), (True, ONLINE)):
            for name, memories in mixtures.items():
                parts = [gate_inputs(log_probs, [found[m] for m in memories], 1) for log_probs, found, _ in stretches]
                joined = GateInputs(
                    np.concatenate([part.log_probs for part in parts]),
                    np.concatenate([part.features for part in parts]),
                    np.concatenate([part.is_open for part in parts]),
                )
                columns.append(Column(name, memories, fit_gate(joined, targets), learns))
        frozen = [Column(f"{c.name}, gate frozen", c.memories, c.fitted, False) for c in columns if c.learns]
        return columns + frozen

    def size_mb(self, names: Sequence[str]) -> float:
        """Megabytes of memories, the base that two of them share once."""
        total = sum(self.memories[name].size_bytes for name in names)
        if STATIC_NGRAM in names and GROWING_NGRAM in names:
            total -= self.memories[STATIC_NGRAM].size_bytes
        return total / 1e6


def main() -> None:
    """Measure, print the tables and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run trained on Tiny Shakespeare, characters")
    parser.add_argument("--stream", type=Path, help="WikiText-2 validation; left out, this table is not made")
    parser.add_argument("--stream-tokens", type=int, help="fewer than all, to try the script")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="online", help="write results/NAME.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    bench = Bench(arguments.run)
    columns = bench.calibrated()
    rows = validation_rows(bench, columns)
    goals = judge(rows)
    if arguments.stream:
        rows += stream_rows(bench, [c for c in columns if c.learns], arguments)
    rows += speed_rows(bench)
    rows.append({"measure": "building", **{f"{name}_s": seconds for name, seconds in bench.seconds.items()}})
    show(rows)
    print(
        write_result(
            arguments.name,
            rows,
            title="Token memories beside the model",
            note="Nats per character of Tiny Shakespeare's last 10 %, and bits per byte of WikiText-2's validation "
            "text (its first n characters) read as a stream by the same model. Static: memories hold the training text "
            "and gates were fitted on the calibration text and are frozen. Online: every token is scored, then learnt. "
            "Intervals (95 %) are over the text; `minus model` is paired.",
            goals=goals,
            run=str(arguments.run),
            data_hash=bench.model.header["data_hash"],
        )
    )


def validation_rows(bench: Bench, columns: list[Column]) -> list[Row]:
    """Read the validation text once with everything."""
    own: dict[str, list[np.ndarray]] = {name: [] for name in ("model", STATIC_NGRAM, GROWING_NGRAM)}
    ids: list[np.ndarray] = []
    for column in columns:
        column.start()
    started = time.perf_counter()
    for log_probs, found, targets in bench.read(bench.corpus.validation, 1):
        collect(own, log_probs, found, targets)
        for column in columns:
            column.read(gate_inputs(log_probs, [found[m] for m in column.memories], 1), targets)
        ids.append(targets)
        log(f"{sum(map(len, ids)):,} tokens, {time.perf_counter() - started:.0f} s", end="\r")
    is_text = bench.tokenizer.num_bytes[np.concatenate(ids)] > 0
    nats = {name: -np.concatenate(parts)[is_text].astype(np.float64) for name, parts in own.items()}
    model = nats["model"]
    rows = []
    for counts, alone in (("static", STATIC_NGRAM), ("online", GROWING_NGRAM)):
        rows.append({"counts": counts, "predictor": "model alone", **figures(model, model), "memory_mb": 0.0})
        megabytes = {"memory_mb": bench.size_mb([alone])}
        rows.append({"counts": counts, "predictor": "Kneser-Ney alone", **figures(nats[alone], model), **megabytes})
        for column in columns:
            if (counts == "static") == (OWN_NGRAM not in column.memories and OWN_KNN not in column.memories):
                mixed = -np.concatenate(column.log_probs)[is_text]
                megabytes = {"memory_mb": bench.size_mb(column.memories)}
                rows.append({"counts": counts, "predictor": column.name, **figures(mixed, model), **megabytes})
    bench.forget(1)
    return [{"measure": "Tiny Shakespeare", **row} for row in rows]


def collect(
    own: dict[str, list[np.ndarray]], log_probs: np.ndarray, found: dict[str, TokenPredictions], targets: np.ndarray
) -> None:
    """Add what model and memories say of the targets by themselves."""
    rows = np.arange(len(targets))
    for name, parts in own.items():
        parts.append((log_probs if name == "model" else found[name].log_probabilities)[rows, targets])


def figures(nats: np.ndarray, model: np.ndarray) -> Row:
    ones = np.ones(len(nats))
    return {
        "nats_per_char": float(nats.mean()),
        "interval": list(ratio_interval(nats, ones)),
        "n": len(nats),
        "minus_model": float((nats - model).mean()),
        "minus_model_interval": list(ratio_interval(nats - model, ones)),
    }


def stream_rows(bench: Bench, columns: list[Column], arguments: argparse.Namespace) -> list[Row]:
    """Read another text as a stream, in rows; the nearest neighbours are those of the last few."""
    tokens = encode_sources([str(arguments.stream)], bench.tokenizer)
    ids = np.asarray(tokens.ids)[: arguments.stream_tokens]
    own: dict[str, list[np.ndarray]] = {name: [] for name in ("model", GROWING_NGRAM)}
    for column in columns:
        column.start()
    started = time.perf_counter()
    read: list[np.ndarray] = []
    for number, begin in enumerate(range(0, len(ids) - 1, ROW), start=1):
        part = TokenArray(ids[begin : begin + ROW + 1], np.zeros(1, dtype=np.int64), 0)
        for log_probs, found, targets in bench.read(part, number):
            collect(own, log_probs, found, targets)
            for column in columns:
                column.read(gate_inputs(log_probs, [found[m] for m in column.memories], 1), targets)
            read.append(targets)
        if number > ROWS_OF_NEIGHBOURS:
            bench.memories[OWN_KNN].forget(number - ROWS_OF_NEIGHBOURS)
        log(f"{begin + len(part) - 1:,} of {len(ids):,} tokens, {time.perf_counter() - started:.0f} s", end="\r")
    sizes = bench.tokenizer.num_bytes[np.concatenate(read)].astype(np.float64)
    disjoint = score_tokens(
        bench.decoder, TokenArray(ids, np.zeros(1, dtype=np.int64), 0), stride=bench.decoder.config.seq_len
    )
    nats = {
        "model alone, disjoint windows": disjoint,
        "model alone, sliding windows": -np.concatenate(own["model"]),
        "Kneser-Ney alone": -np.concatenate(own[GROWING_NGRAM]),
        **{column.name: -np.concatenate(column.log_probs) for column in columns},
    }
    is_text = sizes > 0
    rows = []
    for name, values in nats.items():
        bits = values[is_text].astype(np.float64) / np.log(2)
        figure = {
            "bits_per_byte": float(bits.sum() / sizes.sum()),
            "interval": list(ratio_interval(bits, sizes[is_text])),
        }
        rows.append({"measure": "WikiText-2 stream, online", "predictor": name, **figure, "n": int(is_text.sum())})
    for column in columns:
        megabytes = {"memory_mb": bench.size_mb(column.memories)}
        next(row for row in rows if row["predictor"] == column.name).update(megabytes)
    for number in range(1, len(ids) // ROW + 2):
        bench.forget(number)
    return rows


def speed_rows(bench: Bench) -> list[Row]:
    """Time the n-gram memory on the validation text, a second time, when its code is compiled."""
    memory = bench.memories[GROWING_NGRAM]
    ids = np.asarray(bench.corpus.validation.ids)
    before = memory.size_bytes
    rows = []
    for what, run in (
        ("score, static", lambda: memory.score(ids)),
        ("score, then learn", lambda: memory.score(ids, learn_as=1)),
        ("forget", lambda: memory.forget(1)),
        ("learn", lambda: memory.learn(1, ids)),
    ):
        started = time.perf_counter()
        run()
        rows.append({"what": what, "tokens_per_s": len(ids) / (time.perf_counter() - started), "n": len(ids)})
    state = memory.start(ids[:1000])
    started = time.perf_counter()
    for _ in range(1000):
        memory.predict(state)
    rows.append({"what": "predict one", "tokens_per_s": 1000 / (time.perf_counter() - started), "n": 1000})
    rows[-2]["bytes_a_token"] = (memory.size_bytes - before) / len(ids)
    memory.forget(1)
    return [{"measure": "n-gram memory, order 8", **row} for row in rows]


def judge(rows: list[Row]) -> list[Row]:
    """Compare the best static and online figures with the goals."""
    goals = []
    for counts, limit in GOALS:
        value = min(row["nats_per_char"] for row in rows if row["counts"] == counts)
        what = f"Tiny Shakespeare with memories, {counts}, nats per character, at most"
        goals.append({"what": what, "value": value, "limit": limit, "met": value <= limit})
    return goals


def show(rows: list[Row]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    for measure in dict.fromkeys(row["measure"] for row in rows):
        chosen = [row for row in rows if row["measure"] == measure]
        keys = list(dict.fromkeys(key for row in chosen for key in row if key != "measure"))
        table = Table(*(key.replace("_", " ") for key in keys), title=measure)
        for row in chosen:
            table.add_row(*(cell(row.get(key)) for key in keys))
        console.print(table)


def cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{bound:.3f}" for bound in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
    return "" if value is None else str(value)


def log(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

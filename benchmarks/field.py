"""The field: regression against peers, a drifting stream, search of active units, and relocation on and off.

    python benchmarks/field.py [--quick] [--only regression stream search relocation] [--name field]

Regression: every peer has the field's number of parameters and its seconds to be tuned in (kNN keeps the data). R^2 on
a third of the data held out, over seeds that draw data, split and start anew. The stream is scored before it is learnt.
Search: units drawn as a new field draws them, inputs of unit variance; recall is the share of the true K found.
Relocation: the same fits with and without, paired by seed. Every row is printed when it is known, and the result
written anew with it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_linnerud, load_wine, make_friedman1, make_friedman2, make_friedman3
from sklearn.model_selection import train_test_split

from _common import write_result
from _field_peers import PEERS, stream_peers, tuned
from rhapsode import FieldRegressor
from rhapsode.nn.field.index import UnitIndex
from rhapsode.ops.field.low_units import cast_units
from rhapsode.ops.field.selection import rerank, select_exact, select_reranked

Row = dict[str, Any]
Data = tuple[np.ndarray, np.ndarray]
K = 32
SAMPLES = 1000
SEEDS = 5
STREAM_SEEDS, STREAM_SAMPLES = 3, 2000
RELOCATION_SEEDS = 6
# of 1,000 samples a fit is over before a second round of moves.
RELOCATION_SAMPLES = 4000
RELOCATION_SETS = ("friedman1", "ridge functions", "additive")


def main() -> None:
    """Run what was asked for and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, sets and units; writes no result")
    parser.add_argument("--only", nargs="*", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--name", default="field")
    arguments = parser.parse_args()
    rows: list[Row] = []
    began = time.perf_counter()
    for name in arguments.only:
        for row in MEASURES[name](arguments.quick):
            print(f"{time.perf_counter() - began:6.0f} s", row, file=sys.stderr, flush=True)
            rows.append(row)
            if not arguments.quick:
                write_result(arguments.name, rows, title=TITLE, note=NOTE, goals=judge(rows), peers=peers())


TITLE = "Local-linear fields"
NOTE = (
    "Regression: mean R^2 over seeds with a 95 % interval; peers have the field's number of parameters and its seconds "
    "to be tuned in. Stream: mean squared error over the target's variance, scored before learning. Search: K = 32 of "
    "units as they are drawn. Relocation: the difference in R^2 that it makes, paired by seed."
)


def peers() -> dict[str, str]:
    """Return the versions of what is compared with."""
    found = {"scikit-learn": version("scikit-learn"), "faiss-cpu": version("faiss-cpu")}
    with suppress(PackageNotFoundError):
        found["river"] = version("river")
    return found


def judge(rows: list[Row]) -> list[Row]:
    """Return the goals that the rows answer."""
    goals = []
    moves = [row for row in rows if row["measure"] == "relocation"]
    if moves:
        least = min(row["interval"][0] for row in moves)
        what = "relocation gains R^2: lower end of the interval, everywhere above"
        goals.append({"what": what, "limit": 0.0, "value": least, "met": least > 0})
    return goals


def interval(values: list[float]) -> list[float]:
    """Return a 95 % interval of the mean by Student's t."""
    from scipy import stats

    if len(values) < 2:
        return [values[0], values[0]]
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [round(float(np.mean(values) - half), 4), round(float(np.mean(values) + half), 4)]


def ridge_functions(seed: int, samples: int = SAMPLES) -> Data:
    """Return three ridge functions of 20 inputs: a sine, a hinge and a square."""
    rng = np.random.default_rng(seed)
    X, W = rng.normal(size=(samples, 20)), rng.normal(size=(20, 3)) / 20**0.5
    z = X @ W
    return X, np.sin(2 * z[:, 0]) + np.abs(z[:, 1]) + 0.5 * z[:, 2] ** 2 + 0.1 * rng.normal(size=samples)


def additive(seed: int, samples: int = SAMPLES) -> Data:
    """Return a sum of five functions of one input each, among ten inputs."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(samples, 10))
    y = np.sin(3 * X[:, 0]) + X[:, 1] ** 2 + np.abs(X[:, 2]) + np.exp(-(X[:, 3] ** 2)) + X[:, 4]
    return X, y + 0.1 * rng.normal(size=samples)


def wine(seed: int, samples: int = SAMPLES) -> Data:
    """Return the alcohol of wines by their other measurements."""
    X = load_wine(return_X_y=True)[0]
    return X[:, 1:], X[:, 0]


def linnerud(seed: int, samples: int = SAMPLES) -> Data:
    """Return the weight of 20 men by three exercises."""
    X, y = load_linnerud(return_X_y=True)
    return X, y[:, 0]


SETS: dict[str, Callable[..., Data]] = {
    "friedman1": lambda seed, samples=SAMPLES: make_friedman1(samples, 10, noise=1.0, random_state=seed),
    "ridge functions": ridge_functions,
    "additive": additive,
    "diabetes": lambda seed, samples=SAMPLES: load_diabetes(return_X_y=True),
    "friedman2": lambda seed, samples=SAMPLES: make_friedman2(samples, noise=100.0, random_state=seed),
    "friedman3": lambda seed, samples=SAMPLES: make_friedman3(samples, noise=0.1, random_state=seed),
    "wine": wine,
    "linnerud": linnerud,
}


def r_squared(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(1 - ((model.predict(X) - y) ** 2).mean() / y.var())


def num_parameters(model: FieldRegressor) -> int:
    """Count the field's parameters and the base's weights."""
    base = model.model_.base
    return sum(p.numel() for p in model.model_.field.parameters()) + (0 if base is None else base.weights.numel())


def measure_regression(quick: bool) -> Iterator[Row]:
    """Score the field, each of its gates, and its peers on every set."""
    for name in list(SETS)[: 2 if quick else None]:
        scores: dict[str, list[float]] = {}
        times: dict[str, list[float]] = {}
        for seed in range(1 if quick else SEEDS):
            X, y = SETS[name](seed)
            inside, outside, goals, truth = train_test_split(X, y, test_size=1 / 3, random_state=seed)
            start = time.perf_counter()
            field = FieldRegressor(random_state=seed).fit(inside, goals)
            seconds = time.perf_counter() - start
            found = {"field": (r_squared(field, outside, truth), seconds)}
            for gate in () if quick else ("auto", "ball", "product"):
                start = time.perf_counter()
                one = FieldRegressor(gate=gate, random_state=seed).fit(inside, goals)
                found[f"field, {gate}"] = (r_squared(one, outside, truth), time.perf_counter() - start)
            for peer in PEERS:
                start = time.perf_counter()
                model, _ = tuned(peer, inside, goals, num_parameters(field), seconds, seed)
                found[peer] = (r_squared(model, outside, truth), time.perf_counter() - start)
            for method, (score, took) in found.items():
                scores.setdefault(method, []).append(score)
                times.setdefault(method, []).append(took)
        for method, values in scores.items():
            row = {"measure": "regression", "data": name, "method": method, "r_squared": float(np.mean(values))}
            took = float(np.mean(times[method]))
            yield row | {"interval": interval(values), "seconds": took, "seeds": len(values)}


def drifting(seed: int, samples: int) -> Data:
    """Return a stream whose line turns slowly, and whose bend jumps at half its length."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(samples, 8))
    turn = np.linspace(0, np.pi, samples)
    bend = np.where(np.arange(samples) < samples // 2, 1.0, -1.0)
    y = np.cos(turn) * X[:, 0] + np.sin(turn) * X[:, 1] + bend * np.sin(2 * X[:, 2]) + 0.5 * X[:, 3] * X[:, 4]
    return X, y + 0.1 * rng.normal(size=samples)


def measure_stream(quick: bool) -> list[Row]:
    """Score every method on blocks of ten samples before it learns them."""
    samples = 600 if quick else STREAM_SAMPLES
    scores: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for seed in range(1 if quick else STREAM_SEEDS):
        X, y = drifting(seed, samples)
        methods: dict[str, Any] = {
            "field": FieldRegressor(random_state=seed),
            "field, relocation": FieldRegressor(relocate=True, random_state=seed),
            "field, replay": FieldRegressor(replay=500, random_state=seed),
            "ridge, recursive (our base alone)": FieldRegressor(online_rate=0.0, max_epochs=0, random_state=seed),
        }
        for name, model in (methods | stream_peers(seed)).items():
            start, errors = time.perf_counter(), []
            for first in range(0, samples, 10):
                part = slice(first, first + 10)
                if first:
                    errors.append(((model.predict(X[part]) - y[part]) ** 2).mean())
                model.partial_fit(X[part], y[part])
            scores.setdefault(name, []).append(float(np.mean(errors) / y.var()))
            times.setdefault(name, []).append(samples / (time.perf_counter() - start))
    return [
        {"measure": "stream", "method": name, "relative_error": float(np.mean(values)), "interval": interval(values)}
        | {"samples_per_s": float(np.mean(times[name])), "seeds": len(values)}
        for name, values in scores.items()
    ]


def measure_search(quick: bool) -> Iterator[Row]:
    """Find the K active units of 128 inputs, every way there is."""
    width = 1024 if quick else 4096
    inputs = torch.randn(128, width, generator=torch.Generator().manual_seed(1))
    for number in (20_000,) if quick else (20_000, 50_000, 120_000, 200_000):
        for gate in ("slab", "ball"):
            generator = torch.Generator().manual_seed(0)
            table = torch.randn(number, width, generator=generator)
            if gate == "slab":
                table /= table.norm(dim=1, keepdim=True)
            offsets = torch.randn(number, generator=generator)
            tables = (table, offsets, None) if gate == "slab" else (None, offsets, table)
            for row in search_rows(tables, gate, inputs):
                yield row | {"dim": width}


def search_rows(tables: Any, gate: str, inputs: torch.Tensor) -> Iterator[Row]:
    """Time each way on the same tables, in float16 as a large field stores them; the index has its own float32."""
    tables = tuple(None if table is None else table.half() for table in tables)
    number = len(tables[0] if gate == "slab" else tables[2])
    base = {"measure": "search", "units": number, "gate": gate}
    start = time.perf_counter()
    exact = select_exact(inputs, *tables, gate, K)
    yield base | {"way": "exact", "recall": 1.0, "per_s": len(inputs) / (time.perf_counter() - start)}
    start = time.perf_counter()
    found = select_reranked(inputs, *tables, gate, K)
    took = time.perf_counter() - start
    yield base | {"way": "bfloat16, ranked again", "recall": recall(found, exact), "per_s": len(inputs) / took}
    start = time.perf_counter()
    low = cast_units(*tables, gate, inputs.mean(0))
    cast = time.perf_counter() - start
    start = time.perf_counter()
    found = select_reranked(inputs, *tables, gate, K, low)
    row = {"way": "a copy in bfloat16, ranked again", "recall": recall(found, exact), "build_s": cast}
    yield base | row | {"per_s": len(inputs) / (time.perf_counter() - start)}
    start = time.perf_counter()
    index = UnitIndex(*tables, gate)
    built = time.perf_counter() - start
    # a slab's cells are visited input by input: fewer of both tell its speed.
    for share in (0.02, 0.1) if gate == "slab" else (0.02, 0.1, 0.5):
        some = inputs[:32] if gate == "slab" else inputs
        start = time.perf_counter()
        found = rerank(some, index.candidates(some, K, share), *tables, gate, K)
        row = {"way": f"index, {share:g} of cells", "recall": recall(found, exact[: len(some)])}
        yield base | row | {"per_s": len(some) / (time.perf_counter() - start), "build_s": built}


def recall(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the share of the true units that were found."""
    return float((found.unsqueeze(2) == exact.unsqueeze(1)).any(1).double().mean())


def measure_relocation(quick: bool) -> Iterator[Row]:
    """Fit sparse fields with and without moves, paired by seed, and say what the moves did where they went."""
    for name in RELOCATION_SETS[: 1 if quick else None]:
        for init in ("random", "kmeans"):
            gains, moves, without = [], [], []
            for seed in range(1 if quick else RELOCATION_SEEDS):
                X, y = SETS[name](seed, SAMPLES if quick else RELOCATION_SAMPLES)
                inside, outside, goals, truth = train_test_split(X, y, test_size=1 / 3, random_state=seed)
                shape = {"num_units": 128, "num_active": 8, "gate": "ball", "init": init, "sharing": 0.4}
                fits = [
                    FieldRegressor(**shape, relocate=on, random_state=seed).fit(inside, goals) for on in (False, True)
                ]
                scores = [r_squared(fit, outside, truth) for fit in fits]
                without.append(scores[0])
                gains.append(scores[1] - scores[0])
                moves += fits[1].model_.report.relocations
            row = {"measure": "relocation", "data": name, "init": init, "r_squared without": float(np.mean(without))}
            row |= {"gain": float(np.mean(gains)), "interval": interval(gains)}
            later = [(m.before - m.later, m.control_before - m.control_later) for m in moves if m.later is not None]
            row |= {"moves": len(moves), "fell_at_once": float(np.mean([m.before - m.after for m in moves] or [0.0]))}
            row |= {"fell_later": float(np.mean([a for a, _ in later] or [0.0]))}
            yield row | {"control_fell_later": float(np.mean([b for _, b in later] or [0.0])), "seeds": len(gains)}


MEASURES: dict[str, Callable[[bool], Iterable[Row]]] = {
    "regression": measure_regression,
    "stream": measure_stream,
    "search": measure_search,
    "relocation": measure_relocation,
}

if __name__ == "__main__":
    main()

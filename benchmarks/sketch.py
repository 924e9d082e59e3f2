"""What sketches cost: the Walsh-Hadamard transform beside a copy, and projections beside scikit-learn's.

    OMP_NUM_THREADS=2 python benchmarks/sketch.py [--rounds 20] [--quick] [--name sketch]

All methods of a table run by turns in one process; each figure is a median over rounds, and a ratio is the median of
the ratios within a round. Projections are compared at equal distortion: each has the smallest width tried that
keeps the error of inner products under one limit.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy.linalg import hadamard
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from torch import Tensor

from _common import write_result
from rhapsode.ops.sketch.count_sketch import CountSketch
from rhapsode.ops.sketch.sparse_sign import SparseSign
from rhapsode.ops.sketch.srht import BlockSRHT
from rhapsode.ops.sketch.walsh_hadamard import walsh_hadamard, walsh_hadamard_kronecker, walsh_hadamard_plain

LIMIT, GOAL = 3.0, 1.5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# the dense product alone takes as long as all the rest.
SLOW = {"scipy.linalg.hadamard, matmul": 1, "butterflies, plain torch": 3}
Row = dict[str, Any]
Method = Callable[[], object]


def main() -> None:
    """Run every measurement and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--name", default="sketch")
    arguments = parser.parse_args()
    cut = 8 if arguments.quick else 1
    rows = []
    for shape in ((1024 // cut, 4096), (4096 // cut, 1024)):
        for dtype in DTYPES:
            rows += measure_transform(shape, dtype, arguments.rounds)
    rows += measure_projections(4096 // cut, 1024 // cut, 5)
    goals = [
        {
            "what": f"Walsh-Hadamard over copy_, {row['shape']} {row['dtype']}, at most",
            "value": row["over_copy"],
            "limit": LIMIT,
            "met": row["over_copy"] <= LIMIT,
            "beside": f"goal beyond: {GOAL}",
        }
        for row in rows
        if row.get("method") == "rhapsode"
    ]
    note = (
        f"{torch.get_num_threads()} threads. Transforms are of the last dimension, into an output that exists. "
        "Projections: `width` is the smallest tried that keeps the root mean square error of inner products of unit "
        "vectors under `limit`; making the matrices or tables (`setup_ms`) is apart."
    )
    peers = {"scipy": version("scipy"), "scikit-learn": version("scikit-learn"), "numba": version("numba")}
    print(write_result(arguments.name, rows, title="Sketches", note=note, goals=goals, peers=peers))


def measure_transform(shape: tuple[int, int], dtype: str, rounds: int) -> list[Row]:
    """Milliseconds of each way to transform the rows of one matrix."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    out = torch.empty_like(x)
    matrix = torch.from_numpy((hadamard(shape[1]) / np.sqrt(shape[1])).astype(np.float32)).to(x.dtype)
    methods: dict[str, Method] = {
        "copy_": lambda: out.copy_(x),
        "rhapsode": lambda: walsh_hadamard(x, out=out),
        "Kronecker, two matmuls": lambda: out.copy_(walsh_hadamard_kronecker(x)),
        "butterflies, plain torch": lambda: out.copy_(walsh_hadamard_plain(x)),
        "scipy.linalg.hadamard, matmul": lambda: torch.matmul(x, matrix, out=out),
    }
    with torch.no_grad():
        times = take_turns(methods, rounds)
    label = f"{shape[0]:,} x {shape[1]:,}"
    rows = [
        {
            "measure": "walsh_hadamard",
            "shape": label,
            "dtype": dtype,
            "method": name,
            "ms": round(1e3 * statistics.median(found), 3),
            "over_copy": round(statistics.median(t / c for t, c in zip(found, times["copy_"], strict=False)), 2),
        }
        for name, found in times.items()
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def measure_projections(num_inputs: int, num_rows: int, rounds: int) -> list[Row]:
    """Milliseconds of each projection at the width where its inner products are good enough."""
    generator = torch.Generator().manual_seed(1)
    # a spectrum that falls off, as features have, in random directions of the coordinates.
    x = torch.randn(num_rows, num_inputs, generator=generator) * torch.arange(1, num_inputs + 1) ** -0.25
    x = torch.nn.functional.normalize(x, dim=1)
    limit = 1.1 / (num_inputs / 8) ** 0.5
    rows, methods = [], {}
    for name, build in PROJECTIONS.items():
        for width in (num_inputs // 16, num_inputs // 8, num_inputs // 4):
            begin = time.perf_counter()
            project = build(x, width, 0)
            setup_s = time.perf_counter() - begin
            error = statistics.mean(inner_product_error(x, p(x)) for p in (project, build(x, width, 1)))
            if error <= limit:
                break
        methods[name] = lambda project=project: project(x)
        rows.append({"measure": "equal_distortion", "method": name, "width": width, "error": round(error, 4)})
        rows[-1] |= {"limit": round(limit, 4), "setup_ms": round(1e3 * setup_s, 1)}
    times = take_turns(methods, rounds)
    for row in rows:
        row["ms"] = round(1e3 * statistics.median(times[row["method"]]), 2)
    print(*rows, sep="\n", flush=True)
    return rows


def inner_product_error(x: Tensor, y: Tensor) -> float:
    """Return the root mean square error of the inner products of different rows."""
    return float((y @ y.T - x @ x.T).fill_diagonal_(0).square().sum().div(len(x) * (len(x) - 1)).sqrt())


def build_count_sketch(num_hashes: int) -> Callable[[Tensor, int, int], Callable[[Tensor], Tensor]]:
    """Return what builds a CountSketch."""
    return lambda x, width, seed: CountSketch(width, num_hashes, seed).tables(x.shape[1]).dense


def build_sparse_sign(x: Tensor, width: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Return the control with its matrix made once."""
    matrix = SparseSign(x.shape[1], width, 1 / 3, seed).matrix()
    return lambda x: x @ matrix


def build_sklearn(kind: type) -> Callable[[Tensor, int, int], Callable[[Tensor], Tensor]]:
    """Return what builds a projection of scikit-learn."""

    def build(x: Tensor, width: int, seed: int) -> Callable[[Tensor], Tensor]:
        extra = {"dense_output": True} if kind is SparseRandomProjection else {}
        fitted = kind(n_components=width, random_state=seed, **extra).fit(x.numpy())
        return lambda x: torch.from_numpy(np.asarray(fitted.transform(x.numpy())))

    return build


PROJECTIONS: dict[str, Callable[[Tensor, int, int], Callable[[Tensor], Tensor]]] = {
    "CountSketch, 1 hash": build_count_sketch(1),
    "CountSketch, 4 hashes": build_count_sketch(4),
    "block SRHT, one block": lambda x, width, seed: BlockSRHT(x.shape[1], width, x.shape[1], seed).project,
    "block SRHT, blocks of the width": lambda x, width, seed: BlockSRHT(x.shape[1], width, width, seed).project,
    "sparse signs, dense product": build_sparse_sign,
    "sklearn Gaussian": build_sklearn(GaussianRandomProjection),
    "sklearn sparse": build_sklearn(SparseRandomProjection),
}


def take_turns(methods: dict[str, Method], rounds: int) -> dict[str, list[float]]:
    """Return seconds of each method in each round; slow ones take part in fewer rounds."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for index in range(rounds + 1):
        for name, method in methods.items():
            if index > SLOW.get(name, rounds):
                continue
            if name not in SLOW:
                # so that each finds the caches as it leaves them itself, not as its neighbour does.
                method()
            begin = time.perf_counter()
            method()
            # the first round compiles and warms up.
            times[name] += [time.perf_counter() - begin] if index else []
    return times


if __name__ == "__main__":
    main()

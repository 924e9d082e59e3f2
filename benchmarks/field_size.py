"""A field at full size on one machine: memory, contexts per second in training and query, and how both grow with N.

    python benchmarks/field_size.py [--quick]

Inputs of 4,096 numbers, 4,096 outputs, 32 active units, float16 tables. Low-rank controls (64) are trained and queried
up to 120,000 units; full controls (one number an output) are queried at 200,000. Units are as a new field draws them
and inputs are normal: what is measured is cost, not learning. Each size runs in a process of its own, so that the peak
of its memory is its own. Results: results/field_size.json; with --quick nothing is written.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from _common import write_result
from rhapsode.nn.field import FieldConfig, LargeField
from rhapsode.training.hardware import set_threads

Row = dict[str, Any]
GOAL_CONTEXTS = 500
GOAL_BYTES = 8 * 10**9
SIZES = ((20_000, 64, True), (50_000, 64, True), (120_000, 64, True), (200_000, None, False))
QUICK = ((500, 16, True), (1_000, None, False))


def main() -> None:
    """Measure every size, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small tables; writes no result")
    parser.add_argument("--gates", nargs="*", default=["slab", "ball"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(**json.loads(arguments.measure))))
        return
    rows = []
    for number, rank, trained in QUICK if arguments.quick else SIZES:
        for gate in arguments.gates:
            # full controls leave no room for centres in the budget: the document's unit has none.
            if rank is None and gate != "slab":
                continue
            spec = {"number": number, "rank": rank, "trained": trained, "gate": gate, "quick": arguments.quick}
            command = [sys.executable, __file__, "--measure", json.dumps(spec)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    if not arguments.quick:
        write_result("field_size", rows, title="A field at full size", goals=judge(rows))


def measure(number: int, rank: int | None, trained: bool, gate: str, quick: bool) -> Row:
    """Build, query and perhaps train one field."""
    set_threads(None)
    dim, outputs, batch = (64, 64, 32) if quick else (4_096, 4_096, 256)
    seconds = 0.2 if quick else 20.0
    settings = {"num_units": number, "num_active": 32, "gate": gate, "rank": rank, "init": "random"}
    # full controls leave no room for a copy either.
    settings["search_copy"] = rank is not None
    began = time.perf_counter()
    field = LargeField(dim, outputs, FieldConfig.model_validate(settings), seed=0)
    row: Row = {
        "measure": "full size",
        "units": number,
        "gate": gate,
        "controls": "full" if rank is None else "low rank",
    }
    row |= {"build_s": time.perf_counter() - began, "table_bytes": field.size_bytes()}
    generator = torch.Generator().manual_seed(0)
    field.eval()
    row["query_contexts_per_s"] = contexts_per_s(lambda: query(field, dim, batch, generator), batch, seconds)
    if trained:
        field.train()
        small = torch.optim.AdamW(field.parameters(), lr=1e-3)
        row["train_contexts_per_s"] = contexts_per_s(
            lambda: update(field, small, dim, outputs, batch, generator), batch, seconds
        )
    row["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row


def contexts_per_s(run: Any, batch: int, seconds: float) -> float:
    """Run once to warm up, then for so many seconds."""
    run()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run()
        count += batch
    return count / (time.perf_counter() - began)


@torch.no_grad()
def query(field: LargeField, dim: int, batch: int, generator: torch.Generator) -> None:
    """Answer one batch."""
    field(torch.randn(batch, dim, generator=generator))


def update(
    field: LargeField,
    optimizer: torch.optim.Optimizer,
    dim: int,
    outputs: int,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Learn from one batch."""
    x = torch.randn(batch, dim, generator=generator)
    wanted = torch.randint(outputs, (batch,), generator=generator)
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(field(x), wanted).backward()
    field.update_units(1e-2)
    optimizer.step()


def judge(rows: list[Row]) -> list[Row]:
    """Say whether the full size fits and answers fast enough."""
    goals = []
    for row in rows:
        name = f"{row['units']:,} units, {row['gate']}, {row['controls']} controls"
        if row["units"] >= 120_000:
            peak = row["peak_bytes"]
            goals.append({"what": f"{name}: peak bytes", "value": peak, "limit": GOAL_BYTES, "met": peak <= GOAL_BYTES})
        if row["units"] == 120_000:
            speed = row["query_contexts_per_s"]
            what = f"{name}: contexts answered per second, at least"
            goals.append({"what": what, "value": speed, "limit": GOAL_CONTEXTS, "met": speed >= GOAL_CONTEXTS})
    return goals


if __name__ == "__main__":
    main()

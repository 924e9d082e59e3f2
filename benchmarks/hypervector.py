"""How many tokens a bundle holds, for each kind of key, and how fast the verbs are; beside torch-hd where it is there.

    python benchmarks/hypervector.py [--quick] [--threads 2]

Capacity: L tokens of a vocabulary of 32,000 (8,000 with --quick), each bound to its position's key and added up; every
position is unbound and the nearest of all tokens taken. `division` unbinds Gaussian keys by dividing spectra, as some
programs do. The peer's figures use its own keys and verbs (`pip install torch-hd`). Takes about 3 minutes on two cores.
Writes results/hypervector.json.
"""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from _common import write_result
from rhapsode.ops.hypervector import ALGEBRAS, POSITIONS

DIVISORS = (64, 40, 24, 16)
# per cent that must come back at L = M / divisor with unitary keys.
EXPECTED = {64: (100, 100), 40: (98, 100), 24: (75, 95), 16: (42, 78)}
PEERS = {"torch-hd HRR": "HRR", "torch-hd MAP": "MAP"}
Row = dict[str, Any]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small vocabulary, one size, few repetitions")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes, vocabulary, bundles = ((512,), 8_000, 4) if arguments.quick else ((512, 1_024, 2_048), 32_000, 8)
    methods = [*ALGEBRAS, "gaussian, division"] + (list(PEERS) if peer_version() else [])
    rows: list[Row] = []
    for dim in sizes:
        for method in methods:
            rows.append(capacity(method, dim, vocabulary, bundles))
            print(rows[-1], flush=True)
    for method in methods:
        if "division" not in method:
            rows += speed(method, 1_024, 64 if arguments.quick else 1_024)
            print(rows[-1], flush=True)
    unitary = [row for row in rows if row["measure"] == "recovered" and row["keys"] == "holographic"]
    goals = [
        {
            "what": f"tokens recovered at M / {divisor}, per cent, from {low} to",
            "value": min(row[f"M / {divisor}"] for row in unitary),
            "limit": high,
            "met": all(low <= row[f"M / {divisor}"] <= high for row in unitary),
        }
        for divisor, (low, high) in EXPECTED.items()
    ]
    if not arguments.quick:
        peers = {"torch-hd": peer_version()} if peer_version() else {}
        write_result("hypervector", rows, title="Hypervectors", goals=goals, peers=peers)


def peer_version() -> str | None:
    """Return the version of torch-hd, or None where it is not installed."""
    try:
        return version("torch-hd")
    except PackageNotFoundError:
        return None


def verbs(method: str, dim: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return (keys of a stream, bind, unbind) of a method."""
    if method in PEERS:
        import torchhd

        kind = PEERS[method]
        torch.manual_seed(0)
        return (
            lambda count, stream: torchhd.random(count, dim, vsa=kind),
            torchhd.bind,
            lambda bundle, key: torchhd.bind(bundle, torchhd.inverse(key)),
        )
    algebra = ALGEBRAS[method.split(",")[0]]

    def keys(count: int, stream: int) -> torch.Tensor:
        return algebra(dim, 0, stream).keys(torch.arange(count))

    verb = algebra(dim)

    def divide(bundle: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(bundle) / torch.fft.rfft(key), n=dim)

    return keys, verb.bind, divide if "division" in method else verb.unbind


def capacity(method: str, dim: int, vocabulary: int, bundles: int) -> Row:
    """Return the share of tokens that come back at each load, in per cent."""
    keys, bind, unbind = verbs(method, dim)
    candidates, places = keys(vocabulary, 0), keys(dim // min(DIVISORS), POSITIONS)
    row: Row = {"measure": "recovered", "keys": method, "M": dim}
    for divisor in DIVISORS:
        length = dim // divisor
        ids = torch.randint(0, vocabulary, (bundles, length), generator=torch.Generator().manual_seed(divisor))
        found = 0
        for line in ids:
            bundle = bind(candidates[line], places[:length]).sum(0)
            read = torch.stack([torch.as_tensor(unbind(bundle, place)) for place in places[:length]])
            found += int((ALGEBRAS["sign_flip"](dim).cleanup(read, torch.as_tensor(candidates)) == line).sum())
        row[f"M / {divisor}"] = 100 * found / ids.numel()
    return row


def speed(method: str, dim: int, count: int) -> list[Row]:
    """Return millions of numbers a second for making keys, binding and unbinding `count` vectors, best of seven."""
    keys, bind, unbind = verbs(method, dim)
    a, b = keys(count, 0), keys(count, POSITIONS)
    rows = []
    for name, act in (
        ("keys", lambda: keys(count, 0)),
        ("bind", lambda: bind(a, b)),
        ("unbind", lambda: unbind(a, b)),
    ):
        best = float("inf")
        for _ in range(7):
            began = time.perf_counter()
            act()
            best = min(best, time.perf_counter() - began)
        rows.append(
            {"measure": "speed", "keys": method, "verb": name, "M": dim, "m_numbers_per_s": count * dim / best / 1e6}
        )
    return rows


if __name__ == "__main__":
    main()

"""The durable store: writing, forgetting, searching a million vectors beside other indexes, and being killed.

    python benchmarks/store.py [--rows 1000000] [--kills 200] [--folder FOLDER] [--only NAME ...] [--name store]

Vectors are made: 1,000 centres of rank 24 in 256 dimensions, a spread of the same rank around each, and a little
noise, at unit length; with `--isotropic`, noise alone. Texts are twelve words of a vocabulary of 50,000 whose
frequencies fall as 1 / rank. Each figure comes from a fresh process; resident memory is what a process has more after
searching than after importing. Needs 6 GB of disk and an hour at a million rows, most of it for building the peers.
With --only and --folder it can be measured in parts: what later parts need stays in the folder, and the last part
writes the result.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from _common import write_result
from _kill_store import kill_repeatedly
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore

WIDTH, RANK, CENTRES, VOCABULARY, WORDS = 256, 24, 1_000, 50_000, 12
NUM_QUERIES, K = 1_000, 10
BLOCK = 20_000
Row = dict[str, Any]


def main() -> None:
    """Run every measurement, each in a fresh process, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to put the files; default: a temporary folder")
    parser.add_argument(
        "--only", nargs="*", choices=list(MEASURES), help="measure these only, and keep what is in FOLDER"
    )
    parser.add_argument("--isotropic", action="store_true", help="vectors of noise, for which no goal is set")
    parser.add_argument("--name", default="store", help="of the file in results/")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *rest = arguments.measure
        print(json.dumps({"measure": name, **MEASURES[name](*rest)}))
        return
    names = list(MEASURES) if arguments.only is None else arguments.only
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        parts = folder / f"{arguments.name}.json"
        found: dict[str, Row] = json.loads(parts.read_text()) if parts.exists() else {}
        for name in names:
            number = arguments.kills if name == "kills" else arguments.rows
            found[name] = child(name, folder, number, int(arguments.isotropic))
            parts.write_text(json.dumps(found))
        # measured in parts, the last part writes the result.
        if set(found) == set(MEASURES):
            found["vectors"]["build_s"] = found["build"]["seconds"]
            rows = [found[name] for name in MEASURES]
            extra = {"title": TITLE, "note": NOTE, "peers": peers()}
            print(write_result(arguments.name, rows, goals=[] if arguments.isotropic else judge(found), **extra))


TITLE = "The durable store"
NOTE = (
    "Every figure is of a store or an index with the rows beside it. A write is on disk when it is counted; "
    "`disk sync ms` is what the disk itself takes to force out 64 kB. A forget includes erasing the row from all "
    "files, and `found` counts forgotten words whose bytes stand in any file afterwards. Searches run on one thread."
)


def peers() -> dict[str, str]:
    """Return the versions of what is compared with."""
    return {name: version(name) for name in ("faiss-cpu", "hnswlib", "usearch")} | {"sqlite": sqlite3.sqlite_version}


def child(name: str, *arguments: object) -> Row:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
    row: Row = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )
    print(row, file=sys.stderr)
    return row


def make_vectors(number: int, seed: int, isotropic: bool) -> Iterator[np.ndarray]:
    """Yield blocks of unit vectors; the centres are the same for every seed."""
    fixed = np.random.default_rng(0)
    centres = fixed.normal(size=(CENTRES, RANK)).astype(np.float32)
    lift = fixed.normal(size=(RANK, WIDTH)).astype(np.float32) / RANK**0.5
    rng = np.random.default_rng(seed)
    for start in range(0, number, BLOCK):
        size = min(BLOCK, number - start)
        noise = rng.normal(size=(size, WIDTH)).astype(np.float32)
        latent = centres[rng.integers(0, CENTRES, size)] + 0.6 * rng.normal(size=(size, RANK)).astype(np.float32)
        vectors = noise if isotropic else latent @ lift + 0.05 * noise
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_texts(number: int, seed: int) -> list[str]:
    """Return texts of words whose frequency falls as 1 / rank, each with a number of its own."""
    rng = np.random.default_rng(seed)
    ranks = np.exp(rng.random((number, WORDS)) * np.log(VOCABULARY)).astype(np.int64)
    return [" ".join(f"w{rank}" for rank in row) + f" n{i}z" for i, row in enumerate(ranks.tolist())]


def resident_mb() -> float:
    """Return the resident memory of this process in megabytes."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def percentiles(seconds: list[float]) -> Row:
    """Return milliseconds."""
    return {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1e3, 3) for p in (50, 99)}


def timed(calls: list[Callable[[], Any]]) -> tuple[list[float], list[Any]]:
    """Return the seconds and the result of each call."""
    seconds, results = [], []
    for call in calls:
        begin = time.perf_counter()
        results.append(call())
        seconds.append(time.perf_counter() - begin)
    return seconds, results


def measure_writes(folder: str, rows: str, isotropic: str) -> Row:
    """10,000 facts one at a time, and beside them what the disk takes to force as many bytes out."""
    path = Path(folder) / "writes"
    shutil.rmtree(path, ignore_errors=True)
    texts = make_texts(10_000, 1)
    vectors = next(make_vectors(10_000, 1, False))
    with SQLiteStore.open(path) as store:
        seconds, _ = timed(
            [lambda i=i: store.write([Item(texts[i], key=f"key {i}")], vectors[i : i + 1]) for i in range(10_000)]
        )
        size = store.stats().size_bytes
    shutil.rmtree(path)
    return {
        "rows": 10_000,
        **percentiles(seconds),
        "max_ms": round(max(seconds) * 1e3, 1),
        "size_mb": round(size / 1e6, 1),
        "disk_sync_ms": sync_ms(Path(folder)),
    }


def sync_ms(folder: Path) -> float:
    """Return the median of forcing 64 kB to disk."""
    path = folder / "sync"
    with open(path, "wb", buffering=0) as file:
        seconds, _ = timed([lambda: (file.write(b"x" * 65_536), os.fsync(file.fileno()))] * 200)
    path.unlink()
    return round(float(np.median(seconds)) * 1e3, 3)


def measure_fill(folder: str, rows: str, isotropic: str) -> Row:
    """Write all rows in batches; the other measurements use this store."""
    path, number = Path(folder) / "large", int(rows)
    shutil.rmtree(path, ignore_errors=True)
    texts = make_texts(number, 2)
    begin = time.perf_counter()
    with SQLiteStore.open(path) as store:
        for start, vectors in zip(range(0, number, BLOCK), make_vectors(number, 2, bool(int(isotropic))), strict=True):
            store.write([Item(text) for text in texts[start : start + BLOCK]], vectors)
        seconds = time.perf_counter() - begin
        size = store.stats().size_bytes
    return {
        "rows": number,
        "seconds": round(seconds, 1),
        "rows_per_s": round(number / seconds),
        "size_mb": round(size / 1e6),
    }


def measure_build(folder: str, rows: str, isotropic: str) -> Row:
    """Train, fill, tune and save the vector index."""
    import faiss

    with SQLiteStore.open(Path(folder) / "large") as store:
        before = resident_mb()
        begin = time.perf_counter()
        store.search("x", vector=np.ones(WIDTH, dtype=np.float32), mode="vector")
        seconds = time.perf_counter() - begin
        index = store._vectors._loaded[1].index
    size = sum(path.stat().st_size for path in (Path(folder) / "large").glob("index-*.bin"))
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return {
        "rows": int(rows), "seconds": round(seconds, 1), "threads": faiss.omp_get_max_threads(),
        "lists": len(index._centroids), "probes": index.probes, "peak_mb": round(peak - before),
        "index_mb": round(size / 1e6),
    }  # fmt: skip


def queries_and_truth(folder: Path, rows: int, isotropic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return fresh draws and the ids of their true neighbours, by comparing them with every vector."""
    path = folder / "truth.npz"
    if not path.exists():
        queries = next(make_vectors(NUM_QUERIES, 3, isotropic))
        best, best_ids = np.empty((NUM_QUERIES, 0), np.float32), np.empty((NUM_QUERIES, 0), np.int64)
        for start, vectors in zip(range(0, rows, BLOCK), make_vectors(rows, 2, isotropic), strict=True):
            scores = queries @ vectors.T
            top = np.argpartition(-scores, K, axis=1)[:, :K]
            best = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
            best_ids = np.concatenate([best_ids, top + start + 1], axis=1)
            order = np.argsort(-best, axis=1)[:, :K]
            best, best_ids = np.take_along_axis(best, order, 1), np.take_along_axis(best_ids, order, 1)
        np.savez(path, queries=queries, truth=best_ids)
    saved = np.load(path)
    return saved["queries"], saved["truth"]


def measure_vectors(folder: str, rows: str, isotropic: str) -> Row:
    """Search by vector through the store: candidates, exact comparison and rows included."""
    queries, truth = queries_and_truth(Path(folder), int(rows), bool(int(isotropic)))
    import faiss  # noqa: F401

    before = resident_mb()
    begin = time.perf_counter()
    store = SQLiteStore.open(Path(folder) / "large")
    store.search("x", k=K, vector=queries[0], mode="vector")
    first = time.perf_counter() - begin
    seconds, found = timed([lambda q=q: store.search("x", k=K, vector=q, mode="vector") for q in queries])
    row = {
        "index": "rhapsode",
        "rows": int(rows),
        "recall": recall([[hit.row.id for hit in hits] for hits in found], truth),
    }
    row |= {**percentiles(seconds), "resident_mb": round(resident_mb() - before), "first_search_s": round(first, 2)}
    store.close()
    return row


def recall(found: list[list[int]], truth: np.ndarray) -> float:
    """Return the share of the true neighbours that were found."""
    return round(float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])), 4)


def measure_texts(folder: str, rows: str, isotropic: str) -> Row:
    """Full-text search: a rare word among eleven common ones, and common words alone."""
    with SQLiteStore.open(Path(folder) / "large") as store:
        texts = make_texts(int(rows), 2)
        picked = np.random.default_rng(0).choice(len(texts), 200)
        rare, found = timed([lambda t=texts[i]: store.search(t, k=K, mode="text") for i in picked])
        common, _ = timed(
            [lambda a=a, b=b: store.search(f"w{a} w{b}", k=K, mode="text") for a in range(1, 6) for b in range(6, 11)]
        )
    right = np.mean([hits[0].row.text == texts[i] for i, hits in zip(picked, found, strict=True)])
    return {
        "rows": int(rows),
        **percentiles(rare),
        "found_itself": float(right),
        "common_words_p50_ms": percentiles(common)["p50_ms"],
    }


def measure_forgets(folder: str, rows: str, isotropic: str) -> Row:
    """Forget single rows of the large store, and make sure that nothing of them is left."""
    path = Path(folder) / "large"
    with SQLiteStore.open(path) as store:
        store.search("x", vector=np.ones(WIDTH, dtype=np.float32), mode="vector")
        words = [f"n{i}z" for i in range(1_000, 1_020)]
        ids = [store.search(word, k=1, mode="text")[0].row.id for word in words]
        seconds, erasures = timed([lambda i=i: store.forget([i]) for i in ids])
    left = {word for path in path.iterdir() for word in find_words(path, words)}
    return {
        "rows": int(rows), **percentiles(seconds), "max_ms": round(max(seconds) * 1e3),
        "first_ms": round(seconds[0] * 1e3), "erased": all(erasure.erased for erasure in erasures), "found": len(left),
    }  # fmt: skip


def find_words(path: Path, words: list[str]) -> set[str]:
    """Return those of `words` whose bytes stand in a file."""
    found: set[str] = set()
    overlap = b""
    with open(path, "rb") as file:
        while piece := file.read(1 << 24):
            found |= {word for word in words if word.encode() in overlap + piece}
            overlap = piece[-64:]
    return found


def measure_fts5(folder: str, rows: str, isotropic: str) -> Row:
    """What SQLite's own full text takes for the same texts, and to be rid of one row's words."""
    path = Path(folder) / "fts5.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(text)")
    texts = make_texts(int(rows), 2)
    begin = time.perf_counter()
    for start in range(0, len(texts), BLOCK):
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES (?)", [(text,) for text in texts[start : start + BLOCK]])
        connection.execute("COMMIT")
    filled = time.perf_counter()
    picked = np.random.default_rng(0).choice(len(texts), 20)
    query = "SELECT rowid, bm25(t) FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10"
    seconds, _ = timed(
        [lambda i=i: connection.execute(query, (" OR ".join(texts[i].split()),)).fetchall() for i in picked]
    )
    begin_delete = time.perf_counter()
    connection.execute("DELETE FROM t WHERE rowid = 500")
    connection.execute("INSERT INTO t(t) VALUES ('optimize')")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    deleted = time.perf_counter() - begin_delete
    connection.close()
    size = path.stat().st_size
    path.unlink()
    return {
        "rows": int(rows), "fill_s": round(filled - begin, 1), "search_p50_ms": percentiles(seconds)["p50_ms"],
        "forget_s": round(deleted, 1), "size_mb": round(size / 1e6),
    }  # fmt: skip


def measure_peer(kind: str) -> Callable[[str, str, str], Row]:
    """Return what measures another index: 16 links, 100 candidates in building, the least effort with recall 0.99."""

    def measure(folder: str, rows: str, isotropic: str) -> Row:
        number, noise = int(rows), bool(int(isotropic))
        queries, truth = queries_and_truth(Path(folder), number, noise)
        make = {"hnswlib": _hnswlib, "usearch": _usearch, "faiss_hnsw": _faiss_hnsw}[kind]
        add, search = make(number)
        before = resident_mb()
        seconds = 0.0
        for start, vectors in zip(range(0, number, BLOCK), make_vectors(number, 2, noise), strict=True):
            begin = time.perf_counter()
            add(vectors, np.arange(start + 1, start + 1 + len(vectors)))
            seconds += time.perf_counter() - begin
        row: Row = {}
        for effort in (16, 32, 64, 128, 256, 512):
            times, found = timed([lambda q=q, e=effort: search(q, e) for q in queries])
            row = {
                "measure": "vectors",
                "index": kind,
                "rows": number,
                "recall": recall(found, truth),
                **percentiles(times),
            }
            row |= {"resident_mb": round(resident_mb() - before), "build_s": round(seconds), "effort": effort}
            if row["recall"] >= 0.99:
                break
        return row

    return measure


Peer = tuple[Callable[[np.ndarray, np.ndarray], Any], Callable[[np.ndarray, int], list[int]]]


def _hnswlib(number: int) -> Peer:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=WIDTH)
    index.init_index(max_elements=number, M=16, ef_construction=100)
    index.set_num_threads(threads())

    def search(query: np.ndarray, effort: int) -> list[int]:
        index.set_ef(effort)
        return index.knn_query(query, k=K, num_threads=1)[0][0].tolist()

    return lambda vectors, ids: index.add_items(vectors, ids), search


def _usearch(number: int) -> Peer:
    from usearch.index import Index

    index = Index(ndim=WIDTH, metric="ip", dtype="f16", connectivity=16, expansion_add=100)

    def search(query: np.ndarray, effort: int) -> list[int]:
        index.expansion_search = effort
        return index.search(query, K).keys.tolist()

    return lambda vectors, ids: index.add(ids, vectors, threads=threads()), search


def _faiss_hnsw(number: int) -> Peer:
    import faiss

    index = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100

    def search(query: np.ndarray, effort: int) -> list[int]:
        index.hnsw.efSearch = effort
        return (index.search(query[None], K)[1][0] + 1).tolist()

    return lambda vectors, ids: index.add(vectors), search


def threads() -> int:
    """Return how many threads to build with."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


def measure_compact(folder: str, rows: str, isotropic: str) -> Row:
    """Forget a random nine tenths of a tenth of the rows, and compact."""
    path, number = Path(folder) / "compact", int(rows) // 10
    shutil.rmtree(path, ignore_errors=True)
    texts = make_texts(number, 4)
    vectors = np.concatenate(list(make_vectors(number, 4, bool(int(isotropic)))))
    config = StoreConfig()
    rng = np.random.default_rng(0)
    with SQLiteStore.open(path, config=config) as store:
        ids = np.array(store.write([Item(text) for text in texts], vectors).ids)
        queries = vectors[rng.choice(number, 200)]
        store.search("x", vector=queries[0], mode="vector")
        before = store.stats().size_bytes
        kept = np.sort(rng.choice(number, number // 10, replace=False))
        begin = time.perf_counter()
        store.forget(np.delete(ids, kept).tolist())
        forgotten = time.perf_counter()
        store.compact()
        compacted = time.perf_counter()
        truth = ids[kept][np.argsort(-(queries @ vectors[kept].T), axis=1)[:, :K]]
        found = [[hit.row.id for hit in store.search("x", k=K, vector=q, mode="vector")] for q in queries]
        after = store.stats().size_bytes
    shutil.rmtree(path)
    return {
        "rows": number, "forget_s": round(forgotten - begin, 1), "compact_s": round(compacted - forgotten, 1),
        "size_mb": round(before / 1e6), "compacted_mb": round(after / 1e6), "smaller": round(1 - after / before, 3),
        "recall": recall(found, truth),
    }  # fmt: skip


def measure_kills(folder: str, kills: str, isotropic: str) -> Row:
    """Kill a worker again and again."""
    path = Path(folder) / "kills"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    report = kill_repeatedly(path, int(kills), seed=0)
    for failure in report["failures"]:
        print(failure, file=sys.stderr)
    shutil.rmtree(path)
    return {**report, "failures": len(report["failures"])}


MEASURES: dict[str, Callable[[str, str, str], Row]] = {
    "writes": measure_writes,
    "fill": measure_fill,
    "build": measure_build,
    "vectors": measure_vectors,
    "texts": measure_texts,
    "forgets": measure_forgets,
    "compact": measure_compact,
    "fts5": measure_fts5,
    "hnswlib": measure_peer("hnswlib"),
    "usearch": measure_peer("usearch"),
    "faiss_hnsw": measure_peer("faiss_hnsw"),
    "kills": measure_kills,
}


def judge(by: dict[str, Row]) -> list[Row]:
    """Return the goals, met or not."""
    goals: list[tuple[str, Any, str, bool]] = [
        ("a write, median ms", by["writes"]["p50_ms"], "<= 5", by["writes"]["p50_ms"] <= 5),
        ("a write, 99th percentile ms", by["writes"]["p99_ms"], "<= 25", by["writes"]["p99_ms"] <= 25),
        ("recall@10 of vector search", by["vectors"]["recall"], ">= 0.99", by["vectors"]["recall"] >= 0.99),
        ("vector search, median ms", by["vectors"]["p50_ms"], "<= 5", by["vectors"]["p50_ms"] <= 5),
        ("resident MB", by["vectors"]["resident_mb"], "<= 350", by["vectors"]["resident_mb"] <= 350),
        ("building the index, s", by["build"]["seconds"], "<= 120", by["build"]["seconds"] <= 120),
        ("a forget, slowest ms", by["forgets"]["max_ms"], "<= 1000", by["forgets"]["max_ms"] <= 1_000),
        (
            "smaller after forgetting 90 % and compacting",
            by["compact"]["smaller"],
            ">= 0.8",
            by["compact"]["smaller"] >= 0.8,
        ),
    ]
    goals.append(("failures after kills", by["kills"]["failures"], "0", by["kills"]["failures"] == 0))
    return [{"what": what, "value": value, "limit": limit, "met": met} for what, value, limit, met in goals]


if __name__ == "__main__":
    main()

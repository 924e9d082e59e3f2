"""What preparing text costs: megabytes a second, peak memory, and what it saves a run.

    python benchmarks/prepare.py [--sizes-mb 10 100 1000] [--folder /tmp]

The text is the standard library's source, repeated with another name in each copy. Each figure comes from a fresh
process, so that its peak memory is its own (preparing uses threads, so there are no children to add). Linux only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _common import write_result
from rhapsode.text import (
    DataConfig,
    TokenArray,
    Tokenizer,
    TokenizerConfig,
    WindowSampler,
    encode_split,
    load_corpus,
    load_tokenizer,
    open_sources,
    train_tokenizer,
)
from rhapsode.text.bpe_plain import build_plain
from rhapsode.text.prepare import prepare
from rhapsode.text.stdlib import StdlibReader

DOCUMENT_BYTES = 1_000_000
LARGE_MB = 100
SEQ_LEN, BATCH_SIZE = 128, 32
Row = dict[str, Any]


def main() -> None:
    """Run every measurement and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--folder", type=Path, help="where to put the text; default: a temporary folder")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *rest = arguments.measure
        print(json.dumps({"measure": name, **MEASURES[name](*rest), "peak_mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows = measure_all(Path(name), arguments.sizes_mb)
    print(write_result("prepare", rows))


def measure_all(work: Path, sizes_mb: list[int]) -> list[Row]:
    """Measure at each size; the smallest also serves to compare encoders and ways of reading."""
    rows = []
    for size_mb in sizes_mb:
        folder, single = work / f"{size_mb}", work / f"{size_mb}.txt"
        write_text(folder, single, size_mb * 1_000_000)
        if size_mb == sizes_mb[0]:
            rows.append(child("train", folder, work / "tokenizer.json"))
            rows += [child("encode", single, work / "tokenizer.json", kind) for kind in ENCODERS]
        for source in (folder, single):
            # a large text is measured once, in the way that is hardest on memory.
            for workers in (1, 2) if size_mb <= LARGE_MB else (2,) if source == single else ():
                rows.append(child("prepare", source, work / "tokenizer.json", work / "out", workers))
                if size_mb == sizes_mb[0] and source == folder and workers == 2:
                    rows.append(child("prepared", work / "out"))
                    rows.append(child("on_the_fly", folder, work / "tokenizer.json"))
                shutil.rmtree(work / "out")
        shutil.rmtree(folder)
        single.unlink()
    return rows


def child(*arguments: object) -> Row:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    row: Row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(row, file=sys.stderr)
    return row


def write_text(folder: Path, single: Path, size: int) -> None:
    """Write the same text as documents of 1 MB in a folder and as one file."""
    code = "".join(block for raw in StdlibReader(source=True).documents() for block in raw.blocks)
    folder.mkdir()
    written = number = 0
    with open(single, "w", encoding="utf-8") as file:
        while written < size:
            # another name in each copy, so that no two documents are the same.
            copy = code.replace("self", f"self{number // 10}")
            for start in range(0, len(copy), DOCUMENT_BYTES):
                document = copy[start : start + DOCUMENT_BYTES][: size - written]
                (folder / f"{number:05}.py").write_text(document, encoding="utf-8")
                file.write(document)
                written += len(document)
                number += 1


def measure_train(source: str, out: str) -> Row:
    """Seconds to train the tokenizer with 4096 ids."""
    split = open_sources([source], DataConfig())
    begin = time.perf_counter()
    tokenizer = train_tokenizer(split.texts("train"), TokenizerConfig(kind="bpe"))
    seconds = time.perf_counter() - begin
    tokenizer.save(out)
    return {"seconds": round(seconds, 2), "size_mb": split.num_bytes["train"] / 1e6, "vocab_size": tokenizer.vocab_size}


def measure_encode(source: str, tokenizer_path: str, kind: str) -> Row:
    """Megabytes a second of one thread, best of three."""
    text = Path(source).read_text(encoding="utf-8")
    encode = ENCODERS[kind](load_tokenizer(tokenizer_path), text)
    # the plain twin is slow enough for one run over a tenth.
    text = text[: len(text) // 10] if kind == "bpe, tokenizers" else text
    size_mb = len(text.encode()) / 1e6
    seconds = min(timed(encode, text) for _ in range(3))
    return {"encoder": kind, "size_mb": round(size_mb, 1), "mb_per_s": round(size_mb / seconds, 1)}


def timed(encode: Callable[[str], int], text: str) -> float:
    """Return seconds."""
    begin = time.perf_counter()
    encode(text)
    return time.perf_counter() - begin


def build_twin(tokenizer: Tokenizer, text: str) -> Callable[[str], int]:
    """Return the plain twin of bpe, which gives the same ids."""
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    twin = build_plain(tokens, tokenizer.payload()["pattern"])
    return lambda text: len(twin.encode(text).ids)


def build_other(kind: str) -> Callable[[Tokenizer, str], Callable[[str], int]]:
    """Return what builds a tokenizer of another kind."""

    def build(tokenizer: Tokenizer, text: str) -> Callable[[str], int]:
        other = train_tokenizer(iter([text]), TokenizerConfig(kind=kind))
        return lambda text: len(other.encode(text))

    return build


ENCODERS: dict[str, Callable[[Tokenizer, str], Callable[[str], int]]] = {
    "bpe": lambda tokenizer, text: lambda text: len(tokenizer.encode(text)),
    "bpe, tokenizers": build_twin,
    "bytes": build_other("bytes"),
    "chars": build_other("chars"),
}


def measure_prepare(source: str, tokenizer_path: str, out: str, workers: str) -> Row:
    """Seconds to open a source and to prepare it."""
    tokenizer = load_tokenizer(tokenizer_path)
    begin = time.perf_counter()
    split = open_sources([source], DataConfig())
    opened = time.perf_counter()
    prepare(split, tokenizer, out, workers=int(workers))
    end = time.perf_counter()
    # seconds of both cores together: on a busy machine the better guide to what is possible.
    cpu_s = time.process_time()
    size_mb = sum(split.num_bytes.values()) / 1e6
    return {
        "source": "one file" if Path(source).is_file() else f"{sum(split.num_documents.values())} files",
        "size_mb": round(size_mb, 1),
        "workers": int(workers),
        "open_s": round(opened - begin, 2),
        "prepare_s": round(end - opened, 2),
        "cpu_s": round(cpu_s, 2),
        "mb_per_s": round(size_mb / (end - opened), 1),
        "mb_per_s_with_opening": round(size_mb / (end - begin), 1),
    }


def measure_prepared(folder: str) -> Row:
    """Seconds to the first batch and for one epoch, from a prepared folder."""
    begin = time.perf_counter()
    sampler = WindowSampler(load_corpus(folder).train, SEQ_LEN, BATCH_SIZE, 0)
    sampler.batch(0)
    first = time.perf_counter()
    run_epoch(sampler)
    return {"first_batch_s": round(first - begin, 3), "epoch_s": round(time.perf_counter() - first, 3)}


def measure_on_the_fly(source: str, tokenizer_path: str) -> Row:
    """The same from text: encoded when the run starts, and again in each epoch as nothing is kept."""
    tokenizer = load_tokenizer(tokenizer_path)
    begin = time.perf_counter()
    split = open_sources([source], DataConfig())
    corpus = encode_split(split, tokenizer)
    WindowSampler(corpus.train, SEQ_LEN, BATCH_SIZE, 0).batch(0)
    first = time.perf_counter()
    ids = np.concatenate([tokenizer.encode(text) for text in split.texts("train")])
    run_epoch(WindowSampler(TokenArray(ids, np.zeros(1, dtype=np.int64), 0), SEQ_LEN, BATCH_SIZE, 0))
    return {"first_batch_s": round(first - begin, 3), "epoch_s": round(time.perf_counter() - first, 3)}


def run_epoch(sampler: WindowSampler) -> None:
    """Gather every batch of one epoch with its segments."""
    for index in range(sampler.num_batches_per_epoch):
        _ = sampler.batch(index).segments


def peak_mb() -> float:
    """Peak memory of this process in megabytes. getrusage would report the parent's peak if that was larger."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)


MEASURES: dict[str, Callable[..., Row]] = {
    "train": measure_train,
    "encode": measure_encode,
    "prepare": measure_prepare,
    "prepared": measure_prepared,
    "on_the_fly": measure_on_the_fly,
}


if __name__ == "__main__":
    main()

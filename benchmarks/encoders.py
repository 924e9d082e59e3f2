"""Which encoder finds more, and what it costs: static, model states, both beside BM25, alone and fused.

    python benchmarks/encoders.py RUN [--paragraphs 2000]

RUN is a run trained on `stdlib` (`rhapsode train stdlib --params 3M --minutes 3 --out RUN`). Encoders are trained on
its training part. Two tasks: known items (the first half of each held-out paragraph of the library's documentation
must find its second half) and questions (about made-up facts that the store holds; the right one must come first).
Rows go to results/encoders.json.
"""

import argparse
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from _common import write_result
from rhapsode.answering.question import parse_question
from rhapsode.answering.state_encoder import StateEncoder
from rhapsode.answering.synthetic import FAMILIES, make_world
from rhapsode.memory.contracts import Encoder, Item
from rhapsode.memory.encoders import StaticEncoder
from rhapsode.memory.store import SQLiteStore
from rhapsode.ops.statistics import wilson_interval
from rhapsode.text.config import DataConfig
from rhapsode.text.split import open_sources

FACTS_PER_FAMILY = 400
TASKS = ("known items", "questions")
DEPTH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--paragraphs", type=int, default=2_000)
    arguments = parser.parse_args()
    split = open_sources(["stdlib"], DataConfig())
    train = list(split.texts("train"))
    held_out = [document.text for part in ("validation", "calibration") for document in split.documents(part)]
    rows, encoders = [], {}
    for name, build in (
        ("static", lambda: StaticEncoder.train(train)),
        ("state", lambda: StateEncoder.train(arguments.run, train)),
        ("spelling alone", lambda: StaticEncoder.train([])),
    ):
        encoders[name], row = timed(name, build, held_out)
        rows.append(row)
        print(row, flush=True)
    tasks = {"known items": known_items(held_out, arguments.paragraphs), "questions": made_up_questions()}
    for task, (items, queries, targets) in tasks.items():
        for name, encoder in encoders.items():
            rows += measure(task, name, encoder, items, queries, targets)
    write_result("encoders", rows, title="Encoders", note=f"The model of `state` was {describe(arguments.run)}.")


def timed(name: str, build: Callable[[], Encoder], texts: Sequence[str]) -> tuple[Encoder, dict[str, object]]:
    """Build an encoder, and say how long it took and how many texts of about ten words it encodes a second."""
    began = time.perf_counter()
    encoder = build()
    trained = time.perf_counter() - began
    words = " ".join(texts).split()
    short = [" ".join(words[i : i + 10]) for i in range(0, min(len(words), 40_000), 10)]
    short = short[: 500 if name == "state" else len(short)]
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        encoder.encode(short)
        rates.append(len(short) / (time.perf_counter() - began))
    row = {"measure": "cost", "encoder": name, "train_s": round(trained, 2), "width": encoder.width}
    return encoder, {**row, "first_texts_per_s": round(rates[0]), "texts_per_s": round(rates[1])}


def known_items(held_out: Sequence[str], count: int) -> tuple[list[Item], list[str], list[str]]:
    """Second halves to find, and first halves to find them by."""
    paragraphs = [p for text in held_out for p in re.split(r"\n\s*\n", text) if 120 <= len(p) <= 800]
    random.Random(0).shuffle(paragraphs)
    items, queries, targets = [], [], []
    for paragraph in dict.fromkeys(paragraphs):
        first, space, second = paragraph[len(paragraph) // 2 :].partition(" ")
        head = paragraph[: len(paragraph) // 2] + first
        if space and re.search(r"\w", second) and re.search(r"\w", head) and second not in targets:
            items.append(Item(second))
            queries.append(head)
            targets.append(second)
        if len(items) == count:
            break
    return items, queries, targets


def made_up_questions() -> tuple[list[Item], list[str], list[str]]:
    """Facts of every family, and the terms of the questions that they answer."""
    world = make_world(0, dict.fromkeys(FAMILIES, FACTS_PER_FAMILY))
    items = [Item(fact.text, key=fact.key) for fact in world.facts]
    asked = [one for one in world.asked if one.fact is not None]
    queries = [" ".join(parse_question(one.question).terms) for one in asked]
    return items, queries, [one.fact.text for one in asked if one.fact is not None]


def measure(
    task: str, name: str, encoder: Encoder, items: Sequence[Item], queries: Sequence[str], targets: Sequence[str]
) -> list[dict[str, object]]:
    """Recall at 1 and 10 and mean reciprocal rank, by vectors and fused with BM25; BM25 alone once a task."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, SQLiteStore.open(Path(folder), encoder) as store:
        store.write(items)
        for mode in ("vector", "hybrid", "text"):
            if mode == "text" and name != "static":
                continue
            ranks = []
            for query, target in zip(queries, targets, strict=True):
                texts = [hit.row.text for hit in store.search(query, DEPTH, mode=mode)]
                ranks.append(texts.index(target) if target in texts else np.inf)
            found = np.array(ranks)
            row = {"measure": task, "encoder": "none" if mode == "text" else name}
            row |= {"search": {"vector": "vectors", "hybrid": "vectors and BM25", "text": "BM25"}[mode]}
            row |= {"first": round(float((found == 0).mean()), 4)}
            row |= {"first_interval": [round(x, 4) for x in wilson_interval(int((found == 0).sum()), len(found))]}
            row |= {"among_ten": round(float((found < DEPTH).mean()), 4)}
            row |= {"reciprocal_rank": round(float((1 / (found + 1)).mean()), 4), "n": len(found)}
            rows.append(row)
            print(row, flush=True)
    return rows


def describe(run: Path) -> str:
    """Size and quality of the run, in words."""
    from rhapsode.runfolder import RunFolder, read_json

    results = read_json(RunFolder(run).open().run)["results"]
    return f"{results['parameters']:,} parameters at {results['val_bits_per_byte']:.3f} bits per byte"


if __name__ == "__main__":
    main()

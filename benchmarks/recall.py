"""What is answered of 5,000 taught facts, and of as many that were never taught, for several forms of facts.

    python benchmarks/recall.py [--facts 5000] [--asked 1250]

For each form a new store is taught; then a sample of the keys is asked for, in four wordings, and as many keys that
were never taught, composed of parts of keys that were. Rows go to results/recall.json. The encoder knows spelling only:
with a run's own it finds no less (results/encoders.json).
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from _common import write_result
from rhapsode.answering import calibrate, evaluate_recall
from rhapsode.answering.recall import compose_untaught
from rhapsode.answering.word_lists import (
    ADJECTIVES,
    ATTRIBUTES,
    CITIES,
    GIVEN_NAMES,
    JOBS,
    NOUNS,
    SURNAMES,
    THINGS,
    VERBS,
    make_name,
)
from rhapsode.memory.contracts import Item
from rhapsode.memory.encoders import StaticEncoder
from rhapsode.memory.store import SQLiteStore

Fact = tuple[str | None, str]
GOALS = {"recall": (0.99, "at least"), "coverage": (0.99, "at least"), "fabricated": (0.02, "at most")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=5_000)
    parser.add_argument("--asked", type=int, default=1_250)
    arguments = parser.parse_args()
    rows = []
    for form, facts in make_forms(arguments.facts).items():
        rows.append({"measure": "recall", "form": form, **measure(facts, arguments.asked)})
        print(rows[-1], flush=True)
    worst = {
        name: (min if bound == "at least" else max)(row[name] for row in rows) for name, (_, bound) in GOALS.items()
    }
    goals = [
        {
            "what": f"{arguments.facts:,} facts, {name}, worst of {len(rows)} forms, {bound}",
            "limit": limit,
            "value": worst[name],
            "met": worst[name] >= limit if bound == "at least" else worst[name] <= limit,
        }
        for name, (limit, bound) in GOALS.items()
    ]
    write_result("recall", rows, title="Recall of taught facts", goals=goals)


def measure(facts: list[Fact], count: int) -> dict[str, object]:
    """Teach, and ask for some."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SQLiteStore.open(Path(folder), StaticEncoder.train([])) as store,
    ):
        store.write([Item(text, key=key) for key, text in facts])
        began = time.perf_counter()
        calibrate(store)
        seconds = time.perf_counter() - began
        keys = [key for key, _ in facts if key is not None]
        chosen = random.Random(0).sample(facts, min(count, len(facts)))
        found = evaluate_recall(store, chosen, untaught=compose_untaught(keys, len(chosen)) if keys else None)
    kept = ("recall", "recall_interval", "recall_n", "fabricated", "fabricated_interval", "fabricated_n", "coverage")
    figures = {name: found[name] for name in kept}
    return {**figures, "p50_ms": found["p50_ms"], "threshold": found["threshold"], "calibrate_s": round(seconds, 2)}


def make_forms(count: int) -> dict[str, list[Fact]]:
    """Facts of several forms, no key twice."""
    rng = random.Random(5)
    names: dict[str, None] = {}
    while len(names) < 2 * count:
        names[make_name(rng)] = None
    taught, others = list(names)[:count], list(names)[count:]
    places = [(attribute, place) for attribute in ATTRIBUTES for place in taught[: count // 10]]
    given = [*GIVEN_NAMES, *(name.title() for name in taught[:70])]
    family = [*SURNAMES, *(name.title() for name in taught[100:170])]
    people = [f"{first} {last}" for first in given for last in family]
    rng.shuffle(people)
    return {
        "a name: a sentence about it": [(name, sentence(rng, name)) for name in taught],
        "sentences without a key": [(None, sentence(rng, name)) for name in taught],
        "capital of a place: its name": [
            (f"capital of {a.title()}", b.title()) for a, b in zip(taught, others, strict=True)
        ],
        "attribute of a place: its value": [
            (f"{attribute} of {place.title()}", make_name(rng).title())
            for attribute, place in rng.sample(places, count)
        ],
        "people who share names: job and town": [
            (person, f"{rng.choice(JOBS)} from {rng.choice(CITIES)}") for person in people[:count]
        ],
        "code of a room: a number": [
            (f"code of room {number}", str(rng.randrange(1000, 9999)))
            for number in rng.sample(range(10 * count), count)
        ],
        "a word: its definition, with other such words": [
            (
                word,
                f"a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} for a {rng.choice(taught)} and a {rng.choice(others)}",
            )
            for word in taught
        ],
    }


def sentence(rng: random.Random, name: str) -> str:
    """The zorblatt protocol was designed in Lisbon in 1987."""
    thing, verb = rng.choice(THINGS), rng.choice(VERBS)
    return f"The {name} {thing} was {verb} in {rng.choice(CITIES)} in {rng.randrange(1800, 2030)}."


if __name__ == "__main__":
    main()

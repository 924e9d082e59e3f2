"""Where an answer should come from: the memory's own text, or what the model writes with the memories before it.

    python benchmarks/extract.py RUN [--facts 200] [--asked 100]

Facts are sentences of several forms, taught to a copy of the run's memory. Each way gets the same question and is right
if what it says holds the value that was asked for (a city, a year, a name). Every way sees the same retrieved memories.
Writes results/extract.json.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import write_result
from rhapsode import api
from rhapsode.answering.word_lists import CITIES, NOUNS, THINGS, VERBS, make_name
from rhapsode.ops.statistics import wilson_interval

Way = Callable[[str], str]


def main() -> None:
    """Teach, ask in every way, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--asked", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = api.load(shutil.copytree(arguments.run, Path(folder) / "run"))
        facts = make_facts(arguments.facts)
        model.teach([text for text, _, _ in facts], space="extract")
        rows = [
            measure(name, way, facts[: arguments.asked])
            for name, way in ways(model, [text for text, _, _ in facts]).items()
        ]
    for row in rows:
        print(row)
    print(write_result("extract", rows, title="Extracting an answer, or generating it", note=NOTE))


NOTE = (
    "The share of questions whose answer holds the value asked for. `copied prefix` is a person who knows how the fact "
    "begins and lets the model go on; the other ways are asked the question."
)


def make_facts(count: int) -> list[tuple[str, str, str]]:
    """Return sentences, each with a question and the value that answers it."""
    rng = random.Random(0)
    facts = {}
    while len(facts) < count:
        name, thing, verb, city = make_name(rng), rng.choice(THINGS), rng.choice(VERBS), rng.choice(CITIES)
        year, noun = str(rng.randrange(1800, 2030)), rng.choice(NOUNS)
        form = rng.randrange(3)
        if form == 0:
            fact = (f"The {name} {thing} was {verb} in {city}.", f"Where was the {name} {thing} {verb}?", city)
        elif form == 1:
            fact = (f"The {name} {thing} was {verb} in {year}.", f"When was the {name} {thing} {verb}?", year)
        else:
            fact = (f"The {noun} of {name} is kept in {city}.", f"Where is the {noun} of {name} kept?", city)
        facts[name] = fact
    return list(facts.values())


def ways(model: api.Model, texts: list[str]) -> dict[str, Way]:
    """Return the ways to answer, by name."""

    def generate(prompt: str, memory: bool) -> str:
        made = model.generate(prompt, memory=memory, space="extract", temperature=0.0, max_new_tokens=24, truncate=True)
        return made.text.split("\n")[0]

    def retrieved(question: str) -> str:
        sources = model.ask(question, k=3, min_confidence=0.0, space="extract").sources
        return "\n".join(source["text"] for source in reversed(sources))

    def with_context(memory: bool) -> Way:
        return lambda question: generate(f"{retrieved(question)}\nQuestion: {question}\nAnswer:", memory)

    def prefix(question: str) -> str:
        best = model.ask(question, k=1, min_confidence=0.0, space="extract").sources[0]["text"]
        return generate(" ".join(best.split()[:-1]), memory=True)

    return {
        "extract (ask)": lambda question: model.ask(question, space="extract").answer or "",
        "generate, memories in context": with_context(memory=False),
        "generate, memories in context and token memory": with_context(memory=True),
        "generate, token memory": lambda question: generate(f"Question: {question}\nAnswer:", memory=True),
        "generate, neither": lambda question: generate(f"Question: {question}\nAnswer:", memory=False),
        "copied prefix, token memory": prefix,
    }


def measure(name: str, way: Way, facts: list[tuple[str, str, str]]) -> dict[str, object]:
    """Ask every question."""
    began = time.perf_counter()
    right = sum(value in way(question) for _, question, value in facts)
    seconds = time.perf_counter() - began
    return {
        "way": name,
        "right": right / len(facts),
        "interval": wilson_interval(right, len(facts)),
        "n": len(facts),
        "ms": round(seconds / len(facts) * 1e3, 2),
    }


if __name__ == "__main__":
    main()

"""Fit the shipped confidence on questions that code makes up, and say how well it separates them.

    python benchmarks/fit_confidence.py [--check]

Writes src/rhapsode/answering/coefficients.json and results/confidence.json. Worlds of every family alone, of 3 to 300
facts, and of all together, up to 2,800 facts; fitted on some seeds, measured on others. With --check nothing is
written, and the exit code is 1 if the shipped coefficients are not those that would be. Takes about two minutes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from _common import write_result
from rhapsode.answering.confidence import SHIPPED, ConfidenceModel, fit_logistic
from rhapsode.answering.evidence import FEATURES
from rhapsode.answering.question import parse_question
from rhapsode.answering.synthetic import FAMILIES, Asked, make_world
from rhapsode.answering.view import MemoryView
from rhapsode.memory.contracts import Item
from rhapsode.memory.encoders import StaticEncoder
from rhapsode.memory.store import SQLiteStore
from rhapsode.ops.statistics import wilson_interval

TRAIN_SEEDS, TEST_SEEDS = (1, 2, 3), (101, 102)
ALONE, TOGETHER = (60, 300), (40, 400)
# small memories give few questions each, so there are many of them.
SMALL = tuple(range(1, 13))
QUESTIONS = 400
CANDIDATES = 12
# wrong memories that a question with an answer contributes to the fit.
WRONG = 3
KEPT_SHARE = 0.1
ERROR_RATES = (0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Case:
    """A question, the features of its candidates, and which of them answers it."""

    asked: Asked
    features: np.ndarray
    right: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the coefficients differ")
    arguments = parser.parse_args()
    train, test = list(collect(TRAIN_SEEDS)), list(collect(TEST_SEEDS))
    weights, bias = fit_logistic(*training_rows(train))
    # three digits are plenty, and do not depend on the processor.
    weights, bias = np.round(weights, 3), round(bias, 3)
    bare = ConfidenceModel(weights, bias, np.zeros(1), 1)
    negatives = np.sort([best(bare, case)[0] for case in train if case.asked.fact is None])
    kept = np.round(negatives[-int(len(negatives) * KEPT_SHARE) :], 4)
    model = ConfidenceModel(weights, bias, kept, len(negatives))
    text = json.dumps(model.payload(), indent=1) + "\n"
    if arguments.check:
        sys.exit(0 if SHIPPED.read_text() == text else "coefficients.json is out of date; run the script.")
    SHIPPED.write_text(text)
    write_result(
        "confidence",
        [*separation(model, test), *({"measure": "coefficients", **row} for row in coefficients(model))],
        title="Confidence of an answer",
        note=f"Fitted on {len(train):,} made-up questions, measured on {len(test):,} of other seeds.",
    )
    for row in separation(model, test):
        print(row)


def collect(seeds: Sequence[int]) -> Iterator[Case]:
    """Ask the questions of many worlds."""
    encoder = StaticEncoder.train([])
    shapes = [{family: size} for family in FAMILIES for size in ALONE]
    shapes += [dict.fromkeys(FAMILIES, size) for size in (*TOGETHER, 1, 1, 1, 2, 2, 3)]
    shapes += [{family: size} for family in FAMILIES for size in SMALL]
    for seed in seeds:
        for number, sizes in enumerate(shapes):
            world = make_world(seed * 1000 + number, sizes)
            with tempfile.TemporaryDirectory() as folder, SQLiteStore.open(Path(folder), encoder) as store:
                store.write([Item(fact.text, key=fact.key) for fact in world.facts])
                view = MemoryView(store, "default")
                for asked in world.asked[:QUESTIONS]:
                    found = view.candidates(parse_question(asked.question), CANDIDATES)
                    fact = asked.fact
                    right = [fact is not None and (one.row.key, one.row.text) == (fact.key, fact.text) for one in found]
                    features = np.array([one.evidence.vector() for one in found]).reshape(-1, len(FEATURES))
                    yield Case(asked, features, np.array(right, dtype=bool))


def training_rows(cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
    """The right memory of each question, and the wrong ones that cover it best."""
    features, labels = [], []
    for case in cases:
        features.append(case.features[case.right])
        labels.append(np.ones(case.right.sum()))
        wrong = case.features[~case.right]
        covered = wrong[:, FEATURES.index("coverage")] + wrong[:, FEATURES.index("fuzzy_gain")]
        hard = wrong[np.argsort(-covered, kind="stable")[: WRONG if case.asked.fact else CANDIDATES]]
        features.append(hard)
        labels.append(np.zeros(len(hard)))
    return np.concatenate(features), np.concatenate(labels)


def best(model: ConfidenceModel, case: Case) -> tuple[float, bool]:
    """The highest confidence, and whether it is that of the right memory."""
    if len(case.features) == 0:
        return 0.0, False
    scores = [model.score_vector(row) for row in case.features]
    place = int(np.argmax(scores))
    return scores[place], bool(case.right[place])


def separation(model: ConfidenceModel, cases: Sequence[Case]) -> Iterator[dict[str, object]]:
    """Recall and fabricated share of each family, at the shipped threshold of each error rate."""
    found = [(case.asked, *best(model, case)) for case in cases]
    for rate in ERROR_RATES:
        threshold = model.shipped_threshold(rate)
        for family in ("all", *FAMILIES):
            mine = [one for one in found if family in ("all", one[0].family)]
            taught = [right and score > threshold for asked, score, right in mine if asked.fact is not None]
            untaught = [score > threshold for asked, score, _ in mine if asked.fact is None]
            yield {
                "measure": "separation",
                "error_rate": rate,
                "threshold": round(threshold, 4),
                "family": family,
                "recall": round(float(np.mean(taught)), 4),
                "recall_interval": [round(x, 4) for x in wilson_interval(sum(taught), len(taught))],
                "taught": len(taught),
                "fabricated": round(float(np.mean(untaught)), 4),
                "fabricated_interval": [round(x, 4) for x in wilson_interval(sum(untaught), len(untaught))],
                "untaught": len(untaught),
            }


def coefficients(model: ConfidenceModel) -> Iterator[dict[str, object]]:
    """The weights, for the table."""
    yield {"feature": "bias", "weight": model.bias}
    for name, weight in zip(FEATURES, model.weights, strict=True):
        yield {"feature": name, "weight": float(weight)}


if __name__ == "__main__":
    main()

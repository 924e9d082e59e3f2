"""One-shot learning of words: every preset of the H-SOKV comparison, and the honest task from WordNet.

    python benchmarks/oneshot.py [--skip-replica] [--wordnet /usr/share/wordnet] [--run RUN] [--quick]

The replica takes about five minutes on two cores with its five seeds; of them, the swarm of `current` takes four. The
honest task needs the files of the Debian package wordnet-base and takes about five minutes more; with --run, the states
of that run's model are one of the frozen encoders. Writes results/oneshot.json and results/oneshot_wordnet.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from _common import RESULTS, num_cores, write_result
from rhapsode import api
from rhapsode.evaluation.oneshot.presets import CONTROLS
from rhapsode.evaluation.oneshot.replica import DEFAULT_SEEDS, run_oneshot
from rhapsode.evaluation.oneshot.run_encoder import RunEncoder
from rhapsode.evaluation.oneshot.wordnet_run import OURS, run_wordnet
from rhapsode.evaluation.oneshot.wordnet_task import WordNetConfig

REPLICA_COLUMNS = ["preset", "one_shot", "one_shot_interval", "hit_rate", "retention", "retention_maintained"]
REPLICA_COLUMNS += ["mean_similarity", "mean_gate", "written", "deleted", "auroc", "seconds"]
ACCURACY_COLUMNS = ["method", "variant", "shots", "ways", "words", "accuracy", "interval", "n", "minus_best_control"]
ACCURACY_COLUMNS += ["minus_interval", "best_control"]
Row = dict[str, Any]


def main() -> None:
    """Measure what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-replica", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="PRESET", help="measure these again and keep the stored others")
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's files; without it, that task is left out")
    parser.add_argument("--run", help="a run whose model is one of the frozen encoders")
    parser.add_argument("--quick", action="store_true", help="two seeds and 600 words, to try the script")
    arguments = parser.parse_args()
    if not arguments.skip_replica:
        print(measure_replica(2 if arguments.quick else len(DEFAULT_SEEDS), arguments.only))
    if arguments.wordnet:
        print(measure_wordnet(arguments))


def measure_replica(num_seeds: int, only: list[str] | None = None) -> Path:
    """Run every preset, or some beside the stored others, and write results/oneshot.json."""
    began = time.perf_counter()
    rows = run_oneshot(",".join(only) if only else "all", DEFAULT_SEEDS[:num_seeds], workers=num_cores(), progress=say)
    if only:
        again = {row["preset"]: row for row in rows}
        stored = json.loads((RESULTS / "oneshot.json").read_text())["full"]
        rows = [again.get(row["preset"], row) for row in stored]
    flat = [flatten(row, "one_shot") for row in rows]
    best = max(row["one_shot"]["value"] for row in rows if row["preset"] not in CONTROLS and row["preset"] != OURS)
    ours = next(row for row in rows if row["preset"] == OURS)
    goals = [
        goal("replica, one-shot accuracy, at least", 0.999, ours["one_shot"]["value"], f"best other preset {best:.3f}"),
        goal("replica, retention after 100 more words, at least", 0.999, ours["retention"]["value"]),
    ]
    return write_result(
        "oneshot",
        flat,
        full=rows,
        title="One-shot learning: the replica",
        note="36 nonce words a seed, 20 of them with one story; every test story holds its word, definition and usage, "
        "so that a bag of words solves it. Shares with n = 100 queries a seed for one-shot, 180 for the rest. "
        "Retention: of right answers, those still right after 100 more words, or after consolidation and forgetting "
        "(maintained).",
        goals=goals,
        seeds=num_seeds,
        total_seconds=time.perf_counter() - began,
        columns={"": REPLICA_COLUMNS},
    )


def measure_wordnet(arguments: argparse.Namespace) -> Path:
    """Run the honest task and write results/oneshot_wordnet.json."""
    began = time.perf_counter()
    encoder = None
    if arguments.run:
        model = api.load(arguments.run)
        encoder = RunEncoder(model.decoder, model.tokenizer)
    quick = WordNetConfig(max_words=600, max_corpus=10_000, shots=(1,), further=(100, 1_000))
    rows = run_wordnet(arguments.wordnet, quick if arguments.quick else None, run_encoder=encoder, progress=say)
    return write_result(
        "oneshot_wordnet",
        [flatten(row, "accuracy") for row in rows],
        title="One-shot learning: WordNet",
        note="A gloss and `shots` sentences are taught, another sentence is asked, the word blanked out, visible, "
        "or replaced by an invented one. `ways` words to choose from.",
        goals=judge(rows),
        total_seconds=time.perf_counter() - began,
        columns={"accuracy": ACCURACY_COLUMNS},
    )


def judge(rows: list[Row]) -> list[Row]:
    """Compare ours with its goals."""
    ours = [row for row in rows if row["method"] == OURS]
    goals = []
    for variant in ("visible", "nonce"):
        found = [r for r in ours if r["measure"] == "accuracy" and (r["variant"], r["ways"]) == (variant, "all")]
        row = next(row for row in found if row["shots"] == 1)
        what = f"WordNet, word {variant}, one of {row['words']:,}, at least"
        beside = f"{row['best_control']} {row['accuracy']['value'] - row['minus_best_control']['value']:.4f}"
        goals.append(goal(what, 0.999, row["accuracy"]["value"], beside))
    kept = max(
        (r for r in ours if r["measure"] == "retention" and r["variant"] == "visible"), key=lambda r: r["further"]
    )
    what = f"WordNet, retention after {kept['further']:,} further words, at least"
    goals.append(goal(what, 0.999, kept["retention"]["value"]))
    goals.append(goal("a write, ms, median, at most", 5.0, kept["write_ms_median"], at_least=False))
    blanked = [r for r in ours if r["measure"] == "accuracy" and r["variant"] == "blanked"]
    least = min(blanked, key=lambda row: row["minus_best_control"]["interval"][0])
    what = "WordNet, word blanked, lowest end of the interval of ours minus the best control, at least"
    beside = f"{least['shots']} shots, {least['ways']} ways, {least['best_control']}"
    goals.append(goal(what, 0.0, least["minus_best_control"]["interval"][0], beside))
    return goals


def goal(what: str, limit: float, value: float, beside: str | None = None, *, at_least: bool = True) -> Row:
    met = value >= limit if at_least else value <= limit
    return {"what": what, "limit": limit, "value": value, "met": met, **({"beside": beside} if beside else {})}


def flatten(row: Row, main_figure: str) -> Row:
    """Return a row whose figures are numbers; the interval of the main one beside it."""
    flat: Row = {}
    for name, value in row.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif "value" in value:
            flat[name] = value["value"]
            short = "interval" if name == "accuracy" else "minus_interval" if name.startswith("minus") else None
            flat[short or f"{name}_interval"] = value["interval"]
            if name == main_figure:
                flat["n"] = value["n"]
        elif name == "abstention":
            flat |= {key: value[key] for key in ("auroc", "coverage", "risk", "fabricated")}
    return flat


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

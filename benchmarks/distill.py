"""What a field learns from a teacher: replacement and probe modes beside their controls, online learning, ablations.

    python benchmarks/distill.py TEACHER DATA [--minutes 5] [--seeds 3] [--quick] [--only modes online ablations]

TEACHER is a run of `rhapsode train DATA`. Every trained model has the same captured text, the same projected contexts,
the same counts to start from (but where it says otherwise), the same loss and the same seconds. Bits per byte are
static, on the validation text; `recovered` is the share of the teacher's gain over the unigram. The linear probe's and
the MLP's rates are the best of three by a fifth of the seconds. Results: results/distill.json; with --quick nothing is
written.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import write_result
from _distill_controls import Head, score_head, score_neighbours, train_head
from rhapsode.config import merge
from rhapsode.evaluation.field import online_rows
from rhapsode.runfolder import RunFolder
from rhapsode.training.controls import control_figures
from rhapsode.training.distill.config import DistillRecipe, load_distill_recipe
from rhapsode.training.distill.diagnostics import relocation_gain
from rhapsode.training.distill.online import adapt
from rhapsode.training.distill.run import (
    DistillRequest,
    Material,
    build_model,
    cross_fit,
    gather_material,
    open_reader,
    recovered,
    scored_head,
    train_student,
)
from rhapsode.training.distill.scoring import collect_figures, summarise
from rhapsode.training.distill.student import Student
from rhapsode.training.hardware import set_threads
from rhapsode.training.run import Observer

Row = dict[str, Any]
RATES = (3e-4, 1e-3, 3e-3)
QUICK = {
    "model": {"dim": 256, "stage1_dim": 64, "window": 4, "field": {"num_units": 256}},
    "training": {"max_positions": 20_000, "eval_positions": 2_000, "seed_positions": 1_024},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "gate slab": {"model": {"field": {"gate": "slab"}}},
    "gate product": {"model": {"field": {"gate": "product"}}},
    "interpolation lerp": {"model": {"field": {"interpolation": "lerp"}}},
    "interpolation catmull_rom": {"model": {"field": {"interpolation": "catmull_rom"}}},
    "start kmeans": {"model": {"field": {"init": "kmeans"}}},
    "8 active units": {"model": {"field": {"num_active": 8}}},
    "64 active units": {"model": {"field": {"num_active": 64}}},
    "no relocation": {"training": {"relocate": False}},
    "first stage frozen": {"training": {"joint": "frozen"}},
    "first stage a field": {"model": {"stage1": "field"}},
    "no first stage": {"model": {"stage1": "none"}},
    "whitening zca": {"model": {"whiten": "zca"}},
    "two views": {"model": {"views": 2}},
    "no counts (over the unigram)": {"model": {"base": "unigram"}},
    "no n-grams hashed but ids": {"model": {"ngrams": [1]}},
    "hard labels only": {"training": {"hard": 1.0}},
    "teacher only": {"training": {"hard": 0.0}},
}
STREAMS = ("embeddings", "hidden", "qkv", "phases", "metadata")


def main() -> None:
    """Run what was asked for and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ablation-minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; writes no result")
    parser.add_argument("--only", nargs="*", choices=("modes", "ablations"), default=["modes", "ablations"])
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.ablation_minutes, arguments.seeds = 0.05, 0.02, 1
    set_threads(None)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, Path(scratch))
        for seed in range(arguments.seeds):
            for row in bench.run(seed):
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    if not arguments.quick:
        write_result("distill", rows, title="Distillation into a field", note=NOTE, goals=judge(rows))


class Bench:
    """One teacher and one text; what is captured is captured once."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self._arguments, self._scratch = arguments, scratch

    def run(self, seed: int) -> Iterator[Row]:
        """Yield all rows of a seed."""
        if "modes" in self._arguments.only:
            yield from self._mode("replacement", seed)
            yield from self._mode("probe", seed)
        if "ablations" in self._arguments.only:
            for name, change in ABLATIONS.items():
                yield self._ablation("ablation, replacement", name, change, seed)
            for stream in STREAMS:
                change = {"model": {"mode": "probe"}, "training": {"capture": f"ids,{stream}"}}
                yield self._ablation("ablation, probe", f"{stream} alone", change, seed)

    def _material(self, seed: int, change: dict[str, Any]) -> tuple[DistillRecipe, Material]:
        settings = merge(QUICK if self._arguments.quick else {}, {"training": {"seed": seed}})
        recipe = load_distill_recipe("hft", merge(settings, change))
        streams = (recipe.training.capture or "all") if recipe.model.mode == "probe" else "none"
        cache = self._scratch / streams.replace(",", "-")
        request = DistillRequest(str(self._arguments.teacher), [self._arguments.data], recipe, str(cache))
        return recipe, gather_material(request, RunFolder(self._scratch / "run"), False, Observer())

    def _field(self, recipe: DistillRecipe, material: Material, minutes: float) -> tuple[Student, RunFolder, Row]:
        folder = RunFolder(self._scratch / "run")
        folder.path.mkdir(exist_ok=True)
        folder.metrics.unlink(missing_ok=True)
        timed = recipe.training.model_copy(update={"minutes": minutes})
        model = build_model(recipe, material)
        student = Student(model, timed, cross_fit(recipe, material))
        progress = train_student(student, open_reader(material.train, model), folder, Observer())
        figures = collect_figures(model, open_reader(material.validation, model))
        summary = summarise(figures, model, material.corpus.tokenizer)
        row = {name: summary[name] for name in ("bits_per_byte", "interval", "kl", "unk_rate", "n")}
        row |= {"parameters": model.num_parameters(), "steps": progress["steps"], "seconds": progress["seconds"]}
        row["teacher_bits_per_byte"] = summary["teacher_bits_per_byte"]
        return student, folder, row

    def _mode(self, mode: str, seed: int) -> Iterator[Row]:
        minutes = self._arguments.minutes
        recipe, material = self._material(seed, {"model": {"mode": mode}})
        tokenizer = material.corpus.tokenizer
        counted = control_figures(material.corpus.train, scored_head(material), tokenizer)
        student, _, field = self._field(recipe, material, minutes)
        model, teacher = student.model, field.pop("teacher_bits_per_byte")
        reference = {
            "teacher_bits_per_byte": teacher,
            "unigram_bits_per_byte": counted["unigram_bits_per_byte"],
        }

        def row(name: str, **figures: Any) -> Row:
            share = recovered({**reference, **figures})
            return {"measure": mode, "model": name, "seed": seed, **figures, "recovered": share}

        yield row("teacher", bits_per_byte=teacher)
        yield row("unigram", bits_per_byte=counted["unigram_bits_per_byte"])
        yield row("Kneser-Ney", bits_per_byte=counted["kneser_ney_bits_per_byte"])
        yield row("field", **field)
        bare = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": "unigram"})})
        _, _, without = self._field(bare, material, minutes)
        without.pop("teacher_bits_per_byte")
        yield row("field without counts", **without)
        reader, scored = open_reader(material.train, model), open_reader(material.validation, model)
        yield row("kNN-LM over counts", **score_neighbours(model, reader, scored, tokenizer))
        yield row("linear probe", **self._head(recipe, material, student, 0))
        yield row("MLP", **self._head(recipe, material, student, recipe.model.stage1_dim))
        training = recipe.training
        scores = adapt(model, scored, training.online_rate, training.online_block)
        for one in online_rows(scores, tokenizer.num_bytes):
            bits, gain = one["bits_per_byte"], one["gain over static field"]
            yield {
                "measure": f"online, {mode}",
                "read by": one["read by"],
                "seed": seed,
                "bits_per_byte": bits["value"],
                "interval": bits["interval"],
                "gain": gain["value"],
                "gain_interval": gain["interval"],
                "n": bits["n"],
            }

    def _head(self, recipe: DistillRecipe, material: Material, student: Student, hidden: int) -> Row:
        """Train a control with the best of a few rates."""
        model, cross = student.model, cross_fit(recipe, material)
        reader, scored = open_reader(material.train, model), open_reader(material.validation, model)
        seconds = 60 * self._arguments.minutes

        def trained(rate: float, share: float) -> tuple[Head, Row]:
            head = Head(model.projection.out_dim, model.shortlist.num_classes, hidden)
            about = train_head(head, model, reader, cross, recipe.training, share * seconds, rate)
            return head, {**about, **score_head(head, model, scored, material.corpus.tokenizer), "rate": rate}

        best = min((trained(rate, 0.2)[1] for rate in RATES), key=lambda row: float(row["bits_per_byte"]))
        return {**trained(best["rate"], 1.0)[1], "seconds": seconds}

    def _ablation(self, measure: str, name: str, change: dict[str, Any], seed: int) -> Row:
        recipe, material = self._material(seed, change)
        _, folder, row = self._field(recipe, material, self._arguments.ablation_minutes)
        gain = relocation_gain(folder)
        moved = {"relocation_gain": gain.value, "relocation_interval": gain.interval}
        return {"measure": measure, "change": name, "seed": seed, **row, **moved}


def judge(rows: list[Row]) -> list[Row]:
    """Say whether replacement beats Kneser-Ney, and how far a probe that learns on is from the linear probe."""

    def mean(measure: str, key: str, name: str) -> float | None:
        found = [row["bits_per_byte"] for row in rows if row["measure"] == measure and row.get(key) == name]
        return sum(found) / len(found) if found else None

    field, counts = mean("replacement", "model", "field"), mean("replacement", "model", "Kneser-Ney")
    online, linear = mean("online, probe", "read by", "field, learning"), mean("probe", "model", "linear probe")
    goals = []
    if field is not None and counts is not None:
        what = "replacement mode, bits per byte, at most Kneser-Ney's"
        goals.append({"what": what, "value": field, "limit": counts, "met": field < counts})
    if online is not None and linear is not None:
        what = "probe that learns on, bits per byte, at most 1.02 of the linear probe's"
        goals.append({"what": what, "value": online, "limit": 1.02 * linear, "met": online <= 1.02 * linear})
    return goals


NOTE = (
    "Static bits per byte on validation text, lower is better; equal captured text, contexts, counts and seconds. "
    "`recovered` is the share of the teacher's gain over the unigram. Intervals (95 %) are over the text."
)

if __name__ == "__main__":
    main()

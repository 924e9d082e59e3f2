"""What a field learns from a teacher: replacement and probe modes beside their controls, online learning, ablations.

    python benchmarks/distill.py TEACHER DATA [--seconds 30] [--seeds 3] [--quick] [--only replacement probe ablations]

TEACHER is a run of `rhapsode train DATA`. Every trained model has the same captured text, the same contexts (but where
it says otherwise), the same counts to start from, the same loss and the same seconds, or less where one pass over the
text is over before. Bits per byte are static, on the
validation text; `recovered` is the share of the teacher's gain over the unigram, `over counts` that of its gain over
Kneser-Ney. The controls' rates are the best of five on the first seed, by a third of the seconds. Ablations have one
seed. Every row is printed when it is known, and results/distill.json written anew with it; with --quick nothing is
written.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import write_result
from _distill_controls import Head, last_state, score_head, score_neighbours, train_head
from rhapsode.config import merge
from rhapsode.evaluation.field import online_rows
from rhapsode.models.field.model import FieldModel
from rhapsode.runfolder import RunFolder
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.controls import control_figures
from rhapsode.training.distill.blocks import BlockReader
from rhapsode.training.distill.config import DistillRecipe, load_distill_recipe
from rhapsode.training.distill.diagnostics import relocation_gain
from rhapsode.training.distill.online import adapt
from rhapsode.training.distill.run import (
    DistillRequest,
    Material,
    build_model,
    cross_fit,
    gather_material,
    open_contexts,
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
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
# enough text that a pass is not over in the seconds; a probe's positions are kilobytes each.
SIZES = {"replacement": 200_000, "probe": 131_072}
SETTINGS: dict[str, Any] = {"training": {"eval_positions": 16_384}}
# a teacher's state at a position has what came before in it: two of them project with less noise than eight.
PROBE: dict[str, Any] = {"model": {"window": 2, "ngrams": [1, 2], "dim": 2048}}
QUICK: dict[str, Any] = {
    "model": {"dim": 256, "stage1_dim": 64, "window": 4, "field": {"num_units": 256}},
    "training": {"max_positions": 8_192, "eval_positions": 1_024, "seed_positions": 1_024},
}
CONTROLS = {"the line alone, no units": "line", "MLP": "mlp", "linear probe": "probe"}
# the teacher's own head is one of these: nothing linear can be told more by a teacher.
OF_THE_STATE = {"linear probe of the teacher's last state": "state"}
ABLATIONS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "no line beside the field": {"model": {"linear": False}},
    "does not read the base": {"model": {"reads_base": False}},
    "all places weigh alike": {"model": {"order_decay": 0.0}},
    "first stage after the mixing": {"model": {"stage1": "dense"}},
    "first stage frozen": {"training": {"joint": "frozen"}},
    "first stage a field": {"model": {"stage1": "field"}},
    "no first stage": {"model": {"stage1": "none", "linear": False}},
    "gate slab": {"model": {"field": {"gate": "slab"}}},
    "gate product": {"model": {"field": {"gate": "product"}}},
    "interpolation lerp": {"model": {"field": {"interpolation": "lerp"}}},
    "start kmeans": {"model": {"field": {"init": "kmeans"}}},
    "8 active units": {"model": {"field": {"num_active": 8}}},
    "64 active units": {"model": {"field": {"num_active": 64}}},
    "with relocation": {"training": {"relocate": True}},
    "whitening zca": {"model": {"whiten": "zca", "dim": 1024}},
    "two views": {"model": {"views": 2}},
    "no counts (over the unigram)": {"model": {"base": "unigram"}},
    "no n-grams hashed but ids": {"model": {"ngrams": [1]}},
    "window of 16": {"model": {"window": 16}},
    "hard labels only": {"training": {"hard": 1.0}},
    "teacher only": {"training": {"hard": 0.0}},
}
MEASURES = ("replacement", "probe", "ablations")
STREAMS = ("embeddings", "hidden", "qkv", "phases", "metadata")


def main() -> None:
    """Run what was asked for and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each")
    parser.add_argument("--ablation-seconds", type=float, default=12.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; writes no result")
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.ablation_seconds, arguments.seeds = 1.5, 0.5, 1
    set_threads(None)
    rows = [row for row in _earlier() if _part_of(row["measure"]) not in arguments.only]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for row in Bench(arguments, Path(scratch)).run():
            print(f"{time.perf_counter() - began:6.0f} s", row, file=sys.stderr, flush=True)
            rows.append(row)
            if not arguments.quick:
                write_result("distill", rows, title="Distillation into a field", note=NOTE, goals=judge(rows))


def _earlier() -> list[Row]:
    """Return the rows of the last run: those that are not measured again stay."""
    path = Path(__file__).parent / "results" / "distill.json"
    return list(json.loads(path.read_text())["rows"]) if path.is_file() else []


def _part_of(measure: str) -> str:
    """Return which part of this benchmark takes a measure."""
    return "ablations" if "ablation" in measure else measure.removeprefix("online, ")


class Bench:
    """One teacher and one text; what is captured is captured once."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self._arguments, self._scratch = arguments, scratch
        self._rates: dict[tuple[str, str], float] = {}

    def run(self) -> Iterator[Row]:
        """Yield all rows, modes first."""
        for seed in range(self._arguments.seeds):
            for mode in SIZES:
                if mode in self._arguments.only:
                    yield from self._mode(mode, seed)
        if "ablations" in self._arguments.only:
            for name, change in ABLATIONS.items():
                yield self._ablation("ablation, replacement", name, change)
            for stream in STREAMS:
                change = {"model": {"mode": "probe"}, "training": {"capture": f"ids,{stream}"}}
                yield self._ablation("ablation, probe", f"{stream} alone", change)

    def _material(self, seed: int, change: dict[str, Any]) -> tuple[DistillRecipe, Material]:
        mode = change.get("model", {}).get("mode", "replacement")
        sized = merge({"training": {"seed": seed, "max_positions": SIZES[mode]}}, SETTINGS)
        sized = merge(sized, PROBE if mode == "probe" else {})
        quick = merge(QUICK, {"model": {"window": 2}} if mode == "probe" else {})
        recipe = load_distill_recipe("hft", merge(merge(sized, quick if self._arguments.quick else {}), change))
        streams = (recipe.training.capture or "all") if mode == "probe" else "none"
        cache = self._scratch / streams.replace(",", "-")
        request = DistillRequest(str(self._arguments.teacher), [self._arguments.data], recipe, str(cache))
        return recipe, gather_material(request, RunFolder(self._scratch / "run"), False, Observer())

    def _field(self, recipe: DistillRecipe, material: Material, student: Student, seconds: float) -> Row:
        """Train a field and score it. Its folder, with metrics, is that of the run."""
        folder, model = self._folder(), student.model
        folder.metrics.unlink(missing_ok=True)
        progress = train_student(student, open_reader(material.train, model), folder, Observer())
        figures = collect_figures(model, open_reader(material.validation, model))
        summary = summarise(figures, model, material.corpus.tokenizer)
        row = {name: summary[name] for name in ("bits_per_byte", "interval", "kl", "unk_rate", "n")}
        row |= {"parameters": model.num_parameters(), "steps": progress["steps"], "seconds": progress["seconds"]}
        row["teacher_bits_per_byte"] = summary["teacher_bits_per_byte"]
        return row

    def _folder(self) -> RunFolder:
        folder = RunFolder(self._scratch / "run")
        folder.path.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def _student(self, recipe: DistillRecipe, material: Material, seconds: float) -> Iterator[Student]:
        timed = recipe.training.model_copy(update={"minutes": seconds / 60})
        model = build_model(recipe, material)
        with open_contexts(material, model, timed, self._folder(), Observer()) as contexts:
            # before the clock starts: a control that came later would find them projected.
            contexts.fill(open_reader(material.train, model))
            yield Student(model, timed, cross_fit(recipe, material), contexts)

    def _mode(self, mode: str, seed: int) -> Iterator[Row]:
        seconds = self._arguments.seconds
        recipe, material = self._material(seed, {"model": {"mode": mode}})
        tokenizer = material.corpus.tokenizer
        counted = control_figures(material.corpus.train, scored_head(material), tokenizer)
        reference = {
            "unigram_bits_per_byte": counted["unigram_bits_per_byte"],
            "kneser_ney_bits_per_byte": counted["kneser_ney_bits_per_byte"],
        }

        def row(name: str, **figures: Any) -> Row:
            bits, counts = figures["bits_per_byte"], reference["kneser_ney_bits_per_byte"]
            shares = {
                "recovered": recovered({**reference, **figures}),
                "over counts": (counts - bits) / (counts - reference["teacher_bits_per_byte"]),
            }
            return {"measure": mode, "model": name, "seed": seed, **figures, **shares}

        with self._student(recipe, material, seconds) as student:
            field = self._field(recipe, material, student, seconds)
            reference["teacher_bits_per_byte"] = teacher = field.pop("teacher_bits_per_byte")
            yield row("teacher", bits_per_byte=teacher)
            yield row("unigram", bits_per_byte=counted["unigram_bits_per_byte"])
            yield row("Kneser-Ney", bits_per_byte=counted["kneser_ney_bits_per_byte"])
            yield row("field", **field)
            for name, kind in (CONTROLS | (OF_THE_STATE if mode == "probe" else {})).items():
                yield row(name, **self._head(recipe, material, student, mode, kind))
            model = student.model
            scored = open_reader(material.validation, model)
            if seed == 0:
                # nothing in it is learnt: one seed tells what there is.
                near = score_neighbours(model, open_reader(material.train, model), scored, tokenizer)
                yield row("kNN-LM over counts", **near)
            yield from self._online(model, recipe, scored, tokenizer, mode, seed)

    def _online(
        self, model: FieldModel, recipe: DistillRecipe, scored: BlockReader, tokenizer: Tokenizer, mode: str, seed: int
    ) -> Iterator[Row]:
        scores = adapt(model, scored, recipe.training, recipe.training.online_rate)
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

    def _head(self, recipe: DistillRecipe, material: Material, student: Student, mode: str, kind: str) -> Row:
        """Train a control with the best of a few rates."""
        model, training = student.model, recipe.training
        reader, scored = open_reader(material.train, model), open_reader(material.validation, model)

        def trained(rate: float, share: float) -> Row:
            state = last_state(reader.capture.spec, model.config.window) if kind == "state" else None
            head = Head(model, kind, 2 * recipe.model.stage1_dim, training.seed, state)
            about = train_head(head, student, reader, training, share * self._arguments.seconds, rate)
            return {**about, **score_head(head, model, scored, material.corpus.tokenizer), "rate": rate}

        if (mode, kind) not in self._rates:
            found = [trained(rate, 1 / 3) for rate in RATES]
            self._rates[mode, kind] = min(found, key=lambda row: float(row["bits_per_byte"]))["rate"]
        return trained(self._rates[mode, kind], 1.0)

    def _ablation(self, measure: str, name: str, change: dict[str, Any]) -> Row:
        recipe, material = self._material(0, change)
        seconds = self._arguments.ablation_seconds
        with self._student(recipe, material, seconds) as student:
            row = self._field(recipe, material, student, seconds)
        gain = relocation_gain(self._folder())
        moved = {} if gain.value is None else {"relocation_gain": gain.value, "relocation_interval": gain.interval}
        return {"measure": measure, "change": name, "seed": 0, **row, **moved}


def judge(rows: list[Row]) -> list[Row]:
    """Say whether replacement beats Kneser-Ney, and how far a probe that learns on is from the linear probe."""

    def mean(measure: str, key: str, name: str) -> float | None:
        found = [row["bits_per_byte"] for row in rows if row["measure"] == measure and row.get(key) == name]
        return sum(found) / len(found) if found else None

    field, counts = mean("replacement", "model", "field"), mean("replacement", "model", "Kneser-Ney")
    line, mlp = mean("replacement", "model", "the line alone, no units"), mean("replacement", "model", "MLP")
    online, static = (mean("online, probe", "read by", f"field, {kind}") for kind in ("learning", "static"))
    # whichever is the better: of the projection that the field reads, or of what the teacher's own head reads.
    probes = [mean("probe", "model", name) for name in ("linear probe", *OF_THE_STATE)]
    linear = min((bits for bits in probes if bits is not None), default=None)
    goals = []
    if field is not None and counts is not None:
        what = "replacement mode, bits per byte, at most Kneser-Ney's"
        beside = f"MLP {mlp:.4f}, the line alone {line:.4f}" if mlp is not None and line is not None else ""
        goals.append({"what": what, "value": field, "limit": counts, "met": field < counts, "beside": beside})
    for what, bits in (("probe that learns on", online), ("probe, static", static)):
        if bits is not None and linear is not None:
            limit = 1.02 * linear
            what = f"{what}, bits per byte, at most 1.02 of the better linear probe's"
            goals.append({"what": what, "value": bits, "limit": limit, "met": bits <= limit})
    return goals


NOTE = (
    "Static bits per byte on validation text, lower is better; equal captured text, contexts, counts and seconds. "
    "`recovered` is the share of the teacher's gain over the unigram, `over counts` that of its gain over "
    "Kneser-Ney. Intervals (95 %) are over the text."
)

if __name__ == "__main__":
    main()

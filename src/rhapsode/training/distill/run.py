"""A whole distillation: teacher, text, capture, two stages, final figures. What `rhapsode distill` does."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhapsode.errors import StateError, UserError
from rhapsode.memory.kneser_ney import default_order
from rhapsode.memory.ngram_base import build_ngram_base
from rhapsode.models.field.base import BaseDistribution, CrossFitted
from rhapsode.models.field.contexts import ContextProjection, measure_stream_scales
from rhapsode.models.field.model import FieldModel
from rhapsode.models.field.shortlist import Shortlist
from rhapsode.runfolder import RunFolder, write_json
from rhapsode.text.shards import Corpus, TokenArray
from rhapsode.training.controls import control_figures, counted_head
from rhapsode.training.data import Data, encode_data, open_data
from rhapsode.training.description import describe_run, save_description
from rhapsode.training.distill.blocks import Block, BlockReader
from rhapsode.training.distill.capture import CapturePlan, plan_capture, run_capture
from rhapsode.training.distill.config import DistillConfig, DistillRecipe
from rhapsode.training.distill.context_cache import ContextCache
from rhapsode.training.distill.files import round_parameters, save_field
from rhapsode.training.distill.scoring import collect_figures, summarise
from rhapsode.training.distill.shards import Capture
from rhapsode.training.distill.source import TeacherSource
from rhapsode.training.distill.streams import parse_streams
from rhapsode.training.distill.student import Student
from rhapsode.training.distill.teacher import Teacher, check_same_tokenizer, load_teacher
from rhapsode.training.hardware import resolve_device, set_threads
from rhapsode.training.metrics import MetricsLog
from rhapsode.training.run import Observer

_LOG_EVERY = 10
_SAY_SECONDS = 15.0
_TOP_K = 32
# contexts that a whitening is fitted on: its cost is quadratic in the width for each.
_WHITENED = 16_384
# positions that tell how long a stream of the teacher usually is.
_MEASURED = 4_096


@dataclass(frozen=True)
class DistillRequest:
    """What was asked for."""

    teacher: str
    sources: list[str]
    recipe: DistillRecipe
    cache: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values for run.json."""
        return {
            "teacher": self.teacher,
            "sources": self.sources,
            "recipe": self.recipe.as_json(),
            "cache": self.cache,
        }


@dataclass(frozen=True)
class Material:
    """All that a field is distilled from."""

    teacher: Teacher
    data: Data
    corpus: Corpus
    train: Capture
    validation: Capture
    shortlist: Shortlist
    order: int


def run_distillation(
    request: DistillRequest, out: str | Path, *, overwrite: bool = False, observer: Observer | None = None
) -> dict[str, Any]:
    """Distil a teacher into a field and return the results, which are also in run.json.

    A distillation that is stopped while it reads the teacher goes on from the last whole shard when it is asked for
    again; training begins anew.

    Returns:
        `run`, `mode`, `parameters`, `bits_per_byte` with `interval`, `teacher_bits_per_byte`,
        `unigram_bits_per_byte`, `kneser_ney_bits_per_byte`, `base_bits_per_byte`, `kl` (nats), `unk_rate`,
        `nats_per_token`, `shortlist_nats_per_token`, `recovered` (share of the teacher's gain over the unigram),
        `active_units`, `relocations`, `steps`, `positions`, `seconds`, `capture_seconds`, `evaluation_seconds`, `n`.

    Raises:
        UserError: if what was asked for is wrong.
        StateError: if the disk has no room, a shard is damaged, or the run is locked.
    """
    observer = observer or Observer()
    folder = RunFolder(out)
    if Path(request.teacher).resolve() == folder.path.resolve():
        raise UserError(f"--out must name another folder than TEACHER; got {out} for both. Choose another --out.")
    folder.claim(overwrite=overwrite)
    training = request.recipe.training
    set_threads(training.threads)
    with folder.lock():
        began = time.perf_counter()
        material = gather_material(request, folder, overwrite, observer)
        capture_seconds = time.perf_counter() - began
        model = build_model(request.recipe, material)
        controls = control_figures(material.corpus.train, scored_head(material), material.corpus.tokenizer)
        observer.say(
            f"controls: unigram {controls['unigram_bits_per_byte']:.3f}, Kneser-Ney "
            f"{controls['kneser_ney_bits_per_byte']:.3f} bits per byte"
        )
        # only now that nothing asked for can be wrong: what stood here before is lost from here on.
        folder.create(overwrite=overwrite)
        header = _write_header(request, folder, material, model)
        with open_contexts(material, model, training, folder, observer) as contexts:
            student = Student(model, training, cross_fit(request.recipe, material), contexts)
            progress = train_student(student, open_reader(material.train, model), folder, observer)
        began = time.perf_counter()
        round_parameters(model)
        weights = save_field(folder, model, student.statistics)
        figures = collect_figures(model, open_reader(material.validation, model))
        results = {
            "run": str(folder.path),
            "mode": request.recipe.model.mode,
            "parameters": model.num_parameters(),
            **summarise(figures, model, material.corpus.tokenizer),
            "unigram_bits_per_byte": controls["unigram_bits_per_byte"],
            "kneser_ney_bits_per_byte": controls["kneser_ney_bits_per_byte"],
            "ln_vocab": controls["ln_vocab"],
            "active_units": int(student.statistics.summary()["active_units"]),
            "relocations": student.relocations,
            **progress,
            "capture_seconds": round(capture_seconds, 2),
            "evaluation_seconds": round(time.perf_counter() - began, 2),
        }
        results["recovered"] = recovered(results)
        write_json(folder.run, {**header, "status": "done", "weights_sha256": weights, "results": results})
    return results


def recovered(results: dict[str, Any]) -> float:
    """Return the share of the teacher's gain over the unigram that a field has; more than 1 if it beats the teacher."""
    unigram = results["unigram_bits_per_byte"]
    return float((unigram - results["bits_per_byte"]) / (unigram - results["teacher_bits_per_byte"]))


def train_student(student: Student, reader: BlockReader, folder: RunFolder, observer: Observer) -> dict[str, Any]:
    """Train until the budget is spent or the text is read often enough; a line of metrics.jsonl every ten updates."""
    config, model = student.config, student.model
    seconds = None if config.steps is not None else 60.0 * (config.minutes or 3.0)
    student.seed_first_stage(_sample_to_seed(reader, config))
    epoch = reader.batches_per_epoch(config.batch_size)
    started = said = time.perf_counter()
    step, share = 0, 0.0
    metrics = MetricsLog(folder)
    metrics.clear()
    while share < 1:
        if not student.has_units and (share >= config.units_from or model.linear is None):
            student.seed_units(_sample_to_seed(reader, config))
        row = student.step(reader.batch(step, config.batch_size, config.seed), share, step)
        step += 1
        if step == epoch and model.config.whiten != "none":
            observer.say("the first epoch is over: whitening is fitted and frozen")
            student.fit_whitening(_sample(reader, config))
        elapsed = time.perf_counter() - started
        if config.steps is not None:
            share = step / config.steps
        else:
            # the rate falls by the share, so that it ends at zero whichever of both comes first.
            share = max(elapsed / (seconds or 1.0), step / (config.max_epochs * epoch))
        told = student.told_relocations(everything=share >= 1)
        if step % _LOG_EVERY == 0 or step == 1 or share >= 1 or told:
            row = {"step": step, "elapsed_s": round(elapsed, 3), **row, **student.statistics.summary()}
            metrics.append(row, *({"relocation": event} for event in told))
        if time.perf_counter() - said > _SAY_SECONDS:
            said = time.perf_counter()
            observer.say(f"step {step}  loss {row['train_loss']:.3f}  KL {row['train_kl']:.3f}  {share:.0%}")
    positions = step * config.batch_size
    spent = time.perf_counter() - started
    if config.steps is None and spent < (seconds or 1.0):
        observer.say(f"the text was read {step / epoch:.2f} times; --set training.max_epochs=N reads it more often")
    return {
        "steps": step,
        "positions": positions,
        "positions_per_s": round(positions / spent, 1),
        "seconds": round(spent, 2),
    }


def _sample_to_seed(reader: BlockReader, config: DistillConfig) -> Block:
    """Return text that units start from."""
    return reader.batch(0, max(1, min(len(reader.capture), config.seed_positions)), config.seed + 1)


def _sample(reader: BlockReader, config: DistillConfig) -> Iterator[Block]:
    """Yield some batches of text, enough for a covariance."""
    count = min(reader.batches_per_epoch(config.batch_size), -(-_WHITENED // config.batch_size))
    for number in range(count):
        yield reader.batch(number, config.batch_size, config.seed + 2)


def gather_material(request: DistillRequest, folder: RunFolder, overwrite: bool, observer: Observer) -> Material:
    """Load teacher and text, and read the one over the other."""
    recipe = request.recipe
    teacher = load_teacher(request.teacher, recipe.training.device)
    data = open_data(request.sources, recipe.data, "--data")
    if data.corpus is not None:
        check_same_tokenizer(teacher.tokenizer, data.corpus.tokenizer)
    corpus = encode_data(data, teacher.tokenizer)
    observer.say(
        f"read {data.train_bytes / 1e6:.2f} MB of training text, {len(corpus.train):,} tokens; teacher of kind "
        f"{teacher.kind}, {teacher.tokenizer.vocab_size} ids, context {teacher.context}"
    )
    shortlist = Shortlist.fit(np.asarray(corpus.train.ids), teacher.tokenizer.vocab_size, recipe.model.vocab_limit)
    plans = _plans(request, folder, teacher, corpus, overwrite)
    for plan in plans:
        observer.say(plan.describe())
    train, validation = (
        run_capture(teacher, tokens, plan, observer.say)
        for tokens, plan in zip((corpus.train, corpus.validation), plans, strict=True)
    )
    order = recipe.model.base_order or default_order(teacher.tokenizer.kind)
    return Material(teacher, data, corpus, train, validation, shortlist, order)


def _plans(
    request: DistillRequest, folder: RunFolder, teacher: Teacher, corpus: Corpus, overwrite: bool
) -> list[CapturePlan]:
    training = request.recipe.training
    root = capture_folder(folder, {"request": request.as_json()})
    streams: tuple[str, ...] | None = ()
    if request.recipe.model.mode == "probe":
        streams = None if training.capture in (None, "all") else parse_streams(training.capture or "")
    vocab_size = teacher.tokenizer.vocab_size
    top_k = min(_TOP_K, vocab_size) if training.top_k is None else training.top_k
    limits = {"train": training.max_positions, "validation": training.eval_positions}
    parts: dict[str, TokenArray] = {"train": corpus.train, "validation": corpus.validation}

    def plan() -> list[CapturePlan]:
        return [
            plan_capture(teacher, tokens, root / name, streams=streams, top_k=top_k, max_positions=limits[name])
            for name, tokens in parts.items()
        ]

    try:
        return plan()
    except StateError:
        # what the run that is replaced has captured is replaced with it, but only inside that run.
        if not overwrite or request.cache is not None or not folder.capture.exists():
            raise
        shutil.rmtree(folder.capture)
        return plan()


def capture_folder(folder: RunFolder, header: dict[str, Any]) -> Path:
    """Return where a run keeps what it read of its teacher; `header` is its run.json."""
    cache = header["request"]["cache"]
    return folder.capture if cache is None else Path(cache)


def build_model(recipe: DistillRecipe, material: Material) -> FieldModel:
    """Assemble a model with fresh units: counts, projection, stages."""
    tokenizer = material.corpus.tokenizer
    ngrams = None
    if recipe.model.base == "kneser_ney":
        counted = counted_head(material.corpus.train, tokenizer)
        ngrams = build_ngram_base(np.asarray(counted.ids), tokenizer.vocab_size, material.order)
    source, scales = None, None
    if recipe.model.mode == "probe":
        streams = material.train.spec.streams
        source = TeacherSource(material.teacher, streams)
        places = np.linspace(0, len(material.train) - 1, min(_MEASURED, len(material.train))).astype(np.int64)
        features = torch.from_numpy(material.train.features(places))
        scales = measure_stream_scales(features, [stream.width for stream in streams])
    base = BaseDistribution(material.shortlist.log_unigram, ngrams)
    config = recipe.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    seed = recipe.training.seed
    projection = ContextProjection.build(config, seed, scales)
    model = FieldModel(config, material.shortlist, base, projection, source, seed)
    return model.to(resolve_device(recipe.training.device))


def cross_fit(recipe: DistillRecipe, material: Material) -> CrossFitted | None:
    """Return the counts that a field is trained over: of each stretch, those that have not seen it."""
    if recipe.model.base == "unigram":
        return None
    counted = counted_head(material.corpus.train, material.corpus.tokenizer)
    return CrossFitted(np.asarray(counted.ids), material.shortlist.log_unigram, material.order, recipe.training.folds)


def open_contexts(
    material: Material, model: FieldModel, training: DistillConfig, folder: RunFolder, observer: Observer
) -> ContextCache:
    """Open the file that keeps projected contexts while a field learns, and say what it takes."""
    cache = ContextCache(model, len(material.train), folder.path, int(training.cache_gb * 1e9))
    if cache.size_bytes:
        size, share = cache.size_bytes / 1e6, cache.share
        observer.say(f"projected contexts take up to {size:,.0f} MB while it trains ({share:.0%} of them)")
    return cache


def open_reader(capture: Capture, model: FieldModel) -> BlockReader:
    """Return what cuts blocks out of a capture, as wide as the model looks."""
    return BlockReader(capture, model.context, model.config.window)


def scored_head(material: Material) -> TokenArray:
    """Return the part of the validation text that is scored."""
    validation = material.corpus.validation
    size = len(material.validation) + 1
    return TokenArray(validation.ids[:size], validation.doc_starts[validation.doc_starts < size], 0)


def _write_header(request: DistillRequest, folder: RunFolder, material: Material, model: FieldModel) -> dict[str, Any]:
    """Write all that describes a run before its first step; run.json last, which makes it a run."""
    corpus, teacher = material.corpus, material.teacher
    solved = request.recipe.model_copy(update={"model": model.config})
    save_description(folder, solved, corpus)
    header = {
        **describe_run(material.data, corpus, request.recipe.training.seed),
        "kind": "field",
        "request": request.as_json(),
        "hardware": {"device": str(next(model.parameters()).device), "precision": "float32, stored as float16"},
        "teacher": {
            "path": str(Path(teacher.path).resolve()),
            "kind": teacher.kind,
            "fingerprint": teacher.fingerprint,
            "streams": material.train.spec.as_json()["streams"],
        },
        "parameters": model.num_parameters(),
    }
    write_json(folder.run, header)
    return header

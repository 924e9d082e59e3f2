"""A whole training: text, tokenizer, sizes, loop, final figures. What `rhapsode train` does."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rhapsode.config import build_config, read_toml
from rhapsode.errors import StateError, UserError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.models.scoring import score_figures
from rhapsode.runfolder import RunFolder, hash_file, read_json, write_json
from rhapsode.text.batches import WindowSampler
from rhapsode.text.config import MIN_VOCAB_SIZE
from rhapsode.text.shards import Corpus
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer
from rhapsode.training.checkpoint import Progress, latest_checkpoint, load_weights
from rhapsode.training.config import Recipe
from rhapsode.training.controls import control_figures
from rhapsode.training.data import Data, check_store, choose_tokenizer, encode_data, open_data
from rhapsode.training.description import describe_run, save_description
from rhapsode.training.encoder import has_encoder, train_encoder
from rhapsode.training.hardware import Hardware, apply_hardware, resolve_hardware
from rhapsode.training.loop import Loop, Report, quiet
from rhapsode.training.metrics import MetricsLog
from rhapsode.training.optimizer import build_optimizers
from rhapsode.training.picture import draw_losses
from rhapsode.training.plan import BYTES_PER_TOKEN, Plan, check_given, choose_params, make_plan, tokenizer_cap
from rhapsode.training.schedule import build_budget

# positions of validation text that the final figure is taken on; more would outlast a short training.
MAX_FINAL_TOKENS = 300_000


@dataclass(frozen=True)
class Request:
    """What was asked for: everything that a resume must be able to repeat."""

    sources: list[str]
    recipe: Recipe
    tokenizer: str | None = None
    init: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values for run.json."""
        return {
            "sources": self.sources,
            "recipe": self.recipe.model_dump(mode="json"),
            "tokenizer": self.tokenizer,
            "init": self.init,
        }


@dataclass
class Observer:
    """Who is told what happens: `say` gets whole sentences, `report` a line a step."""

    say: Callable[[str], None] = field(default=lambda sentence: None)
    report: Callable[[Report], None] = quiet


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start."""

    data: Data
    corpus: Corpus
    sampler: WindowSampler
    plan: Plan
    hardware: Hardware


def plan_run(request: Request) -> tuple[Plan, Hardware, Data]:
    """Plan a run from its sources alone: nothing is trained, not even a tokenizer.

    The vocabulary is taken at its cap. Raises UserError as a training would.
    """
    recipe = request.recipe
    if request.init is not None:
        recipe = recipe.model_copy(update={"model": _saved_model(RunFolder(request.init))})
    data = open_data(request.sources, recipe.data)
    params = choose_params(recipe, data.train_bytes)
    given = _given_tokenizer(request)
    if data.corpus is not None:
        given = data.corpus.tokenizer
    if given is not None:
        check_given(recipe, given.vocab_size)
        vocab_size, per_token = given.vocab_size, BYTES_PER_TOKEN.get(given.kind, 1.0)
    else:
        config = tokenizer_cap(recipe, params)
        # bytes never have more ids than the smallest vocabulary; characters seldom do, and are counted by training.
        vocab_size = MIN_VOCAB_SIZE if config.kind == "bytes" else config.max_vocab_size or MIN_VOCAB_SIZE
        per_token = BYTES_PER_TOKEN.get(config.kind, 1.0)
    plan, hardware = _plan(recipe, params, vocab_size, max(1, int(data.train_bytes / per_token)))
    if plan.model.streams:
        for sentence in plan.model.hypervector_stream.capacity_warnings():
            warnings.warn(sentence, stacklevel=2)
    return plan, hardware, data


def run_training(
    request: Request,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train a model and return its results, which are also in run.json.

    Returns:
        `run`, `parameters`, `vocab_size`, `val_bits_per_byte` with `interval` (and `task`, see `score_figures`),
        `val_nats_per_token`, `unigram_bits_per_byte`, `kneser_ney_bits_per_byte`, `ln_vocab`, `tokens`, `steps`,
        `tokens_per_s`, `seconds` (of training), `setup_seconds`, `controls_seconds`, `evaluation_seconds`, `ended`.

    Raises:
        UserError: if what was asked for is wrong.
        StateError: if the run is locked, damaged, or the loss is not a number.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
    """
    observer = observer or Observer()
    folder = RunFolder(out)
    if request.init is not None and Path(request.init).resolve() == folder.path.resolve():
        raise UserError(f"--init must name another run than --out; got {out} for both. Choose another --out.")
    if resume and not folder.exists():
        observer.say(f"{folder.path} has no run yet: starting one.")
        resume = False
    if not resume:
        folder.claim(overwrite=overwrite)
    with folder.lock():
        started = time.perf_counter()
        saved = read_json(folder.open().run) if resume else None
        if saved is not None:
            _check_same_request(request, saved)
        setup = _prepare(request, folder, saved, observer)
        apply_hardware(setup.hardware)
        controls = control_figures(setup.corpus.train, setup.corpus.validation, setup.corpus.tokenizer)
        observer.say(
            f"controls: unigram {controls['unigram_bits_per_byte']:.3f}, Kneser-Ney "
            f"{controls['kneser_ney_bits_per_byte']:.3f} bits per byte ({controls['controls_seconds']:.1f} s)"
        )
        model = build_decoder(setup.plan.model, request.recipe.training.seed, setup.hardware.device)
        if request.init is not None and not (resume and latest_checkpoint(folder)):
            init = RunFolder(request.init)
            load_weights(init.model, model, read_json(init.run).get("weights_sha256"))
        loop = _loop(request.recipe, folder, setup, model, observer)
        # only now that nothing asked for can be wrong: what stood here before is lost from here on.
        if not resume:
            folder.create(overwrite=overwrite)
        header = _write_header(request, folder, setup, saved)
        if not has_encoder(folder):
            train_encoder(folder)
        setup_seconds = time.perf_counter() - started
        observer.say(f"training until {_budget_in_words(request.recipe)}; {setup.hardware.compile_reason}")
        progress, ended = loop.train(resume=resume)
        results = {
            "run": str(folder.path),
            "parameters": model.num_parameters(),
            "vocab_size": setup.corpus.tokenizer.vocab_size,
            **_final_figures(folder, setup, progress, request.recipe.training.isolate_documents),
            **controls,
            **_costs(request.recipe, setup.plan, progress),
            "setup_seconds": round(setup_seconds, 2),
            "ended": ended,
        }
        weights = {"weights_sha256": hash_file(folder.model)}
        write_json(folder.run, {**header, "status": "done", **weights, "results": results})
        label = "validation, seen as bundles" if results.get("task") == "reconstruct" else "validation"
        draw_losses(folder, MetricsLog(folder).rows(), controls, label)
    return results


def _prepare(request: Request, folder: RunFolder, saved: dict[str, Any] | None, observer: Observer) -> Setup:
    """Text to ids, and sizes: with the vocabulary's cap first, then with what the tokenizer learnt."""
    recipe = request.recipe
    began = folder if saved is not None else None if request.init is None else RunFolder(request.init)
    if began is not None:
        # sizes that are given are not solved again, so that the plan is of the model that is trained.
        recipe = recipe.model_copy(update={"model": _saved_model(began)})
    data = open_data(request.sources, recipe.data)
    observer.say(f"read {data.train_bytes / 1e6:.2f} MB of training text")
    if saved is not None and saved["data_hash"] != data.data_hash:
        raise StateError("resume must find the text the run began with; it has changed. Train again with --overwrite.")
    params = choose_params(recipe, data.train_bytes) if saved is None else saved["params_budget"]
    if saved is not None:
        tokenizer = load_tokenizer(folder.tokenizer)
        if tokenizer.fingerprint != saved["tokenizer_fingerprint"]:
            raise StateError(f"{folder.tokenizer} must be the tokenizer the run began with; it has changed.")
    else:
        given = _given_tokenizer(request)
        # a cap that nobody asked for does not refuse a tokenizer that somebody did.
        free = given is None and data.corpus is None
        wanted = tokenizer_cap(recipe, params) if free else recipe.tokenizer
        tokenizer = choose_tokenizer(data, wanted, given, observer.say)
        cap = wanted.max_vocab_size
        if not free:
            check_given(recipe, tokenizer.vocab_size)
        elif cap is not None and tokenizer.vocab_size < cap:
            observer.say(f"vocabulary: {cap} ids in the budget, {tokenizer.vocab_size} learnt: sizes are solved again")
    check_store(recipe.model, tokenizer)
    corpus = encode_data(data, tokenizer)
    observer.say(
        f"{tokenizer.kind} tokenizer: {tokenizer.vocab_size} ids, "
        f"{corpus.train.num_bytes / max(1, len(corpus.train)):.2f} bytes a token"
    )
    plan, hardware = _plan(recipe, params, tokenizer.vocab_size, len(corpus.train))
    if saved is not None:
        hardware = _same_hardware(hardware, recipe, saved)
    observer.say(describe_plan(plan))
    training = recipe.training
    sampler = WindowSampler(corpus.train, plan.model.seq_len, training.batch_size, training.seed)
    _check_validation(corpus, recipe)
    return Setup(data, corpus, sampler, plan, hardware)


def _check_validation(corpus: Corpus, recipe: Recipe) -> None:
    """Refuse, before anything is trained, what could not be measured afterwards."""
    scored = int((corpus.tokenizer.num_bytes[corpus.validation.ids[1:1000]] > 0).sum())
    if scored < 2:
        name = "--val-split must leave" if recipe.data.val_file is None else "--val-file must hold"
        raise UserError(f"{name} at least 2 tokens of text to measure on; got {scored}. Give more text.")


def describe_plan(plan: Plan) -> str:
    """Return the sizes of a plan in one line."""
    m = plan.model
    tables = f", {m.hashed_ngrams.num_buckets} n-gram rows" if m.token_embedder == "hashed_ngrams" else ""
    if m.streams:
        stream = m.hypervector_stream
        count = stream.num_bundles + len(stream.timescales)
        tables += f", {count} bundles of {stream.hd_dim} numbers, {stream.chunk} tokens each"
    return (
        f"{plan.parameters:,} parameters: vocabulary {m.vocab_size}, width {m.width}, {m.num_layers} layers, "
        f"{m.num_heads} heads, context {m.seq_len}{tables}"
    )


def _plan(recipe: Recipe, params: int, vocab_size: int, tokens_per_epoch: int) -> tuple[Plan, Hardware]:
    training = recipe.training
    hardware = resolve_hardware(training, planned_seconds=0.0)
    plan = make_plan(recipe, params, vocab_size, tokens_per_epoch, hardware.precision, compiled=True)
    hardware = resolve_hardware(training, plan.seconds)
    if not hardware.compiled:
        plan = make_plan(recipe, params, vocab_size, tokens_per_epoch, hardware.precision, compiled=False)
    return plan, hardware


def _loop(recipe: Recipe, folder: RunFolder, setup: Setup, model: Decoder, observer: Observer) -> Loop:
    training, corpus = recipe.training, setup.corpus
    tokens_per_step = training.batch_size * training.gradient_accumulation_steps * setup.plan.model.seq_len
    return Loop(
        model=model,
        optimizers=build_optimizers(model, training),
        sampler=setup.sampler,
        validation=corpus.validation,
        num_bytes=corpus.tokenizer.num_bytes,
        config=training,
        budget=build_budget(training, tokens_per_step, len(corpus.train)),
        hardware=setup.hardware,
        folder=folder,
        report=observer.report,
    )


def _write_header(request: Request, folder: RunFolder, setup: Setup, saved: dict[str, Any] | None) -> dict[str, Any]:
    """Write all that describes a run before its first step; run.json last, which makes it a run."""
    corpus = setup.corpus
    solved = request.recipe.model_copy(update={"model": setup.plan.model})
    if saved is None:
        save_description(folder, solved, corpus)
    header = saved or {
        **describe_run(setup.data, corpus, request.recipe.training.seed),
        "request": request.as_json(),
        "params_budget": request.recipe.params or setup.plan.parameters,
        "hardware": setup.hardware.describe(),
        "parameters": setup.plan.parameters,
    }
    header["status"] = "training"
    write_json(folder.run, header)
    return header


def _final_figures(folder: RunFolder, setup: Setup, progress: Progress, isolate: bool) -> dict[str, Any]:
    """Score the best weights on the validation text, in float32, with windows that slide by a quarter."""
    started = time.perf_counter()
    model = Decoder(setup.plan.model)
    load_weights(folder.model, model, None)
    model.to(setup.hardware.device)
    corpus = setup.corpus
    figures = score_figures(model, corpus.validation, corpus.tokenizer, MAX_FINAL_TOKENS, isolate_documents=isolate)
    return {
        **({"task": figures["task"]} if "task" in figures else {}),
        "val_bits_per_byte": figures["bits_per_byte"],
        "val_nats_per_token": figures["nats_per_token"],
        "interval": figures["interval"],
        "n": figures["n"],
        "best_step": progress.best_step,
        "evaluation_seconds": round(time.perf_counter() - started, 2),
    }


def _costs(recipe: Recipe, plan: Plan, progress: Progress) -> dict[str, Any]:
    training = recipe.training
    tokens = progress.step * training.batch_size * training.gradient_accumulation_steps * plan.model.seq_len
    return {
        "tokens": tokens,
        "steps": progress.step,
        "tokens_per_s": round(tokens / max(progress.elapsed_s, 1e-9), 1),
        "seconds": round(progress.elapsed_s, 2),
    }


def _given_tokenizer(request: Request) -> Tokenizer | None:
    if request.init is not None:
        if request.tokenizer is not None:
            raise UserError("--tokenizer must not be given with --init, which brings its own. Leave it out.")
        return load_tokenizer(RunFolder(request.init).open().tokenizer)
    return None if request.tokenizer is None else load_tokenizer(request.tokenizer)


def _saved_model(folder: RunFolder) -> ModelConfig:
    if read_json(folder.open().run).get("kind", "decoder") != "decoder":
        raise UserError(f"--init must name a run of rhapsode train; got {folder.path}, which is a field. Name another.")
    return build_config(Recipe, read_toml(folder.open().recipe)).model


def _check_same_request(request: Request, saved: dict[str, Any]) -> None:
    """Refuse a request that is not what the run began with."""
    began = saved["request"]
    now = request.as_json()
    for name in ("sources", "tokenizer", "init"):
        if now[name] != began[name]:
            raise StateError(
                f"resume must repeat how the run began; {name} was {began[name]!r} and is now {now[name]!r}. "
                "Repeat it, or train again with --overwrite."
            )
    path = _first_difference(began["recipe"], now["recipe"], "")
    if path is not None:
        name, was, wanted = path
        raise StateError(
            f"resume must repeat the recipe; {name} was {was!r} and is now {wanted!r}. "
            "Repeat it, or train again with --overwrite."
        )


def _first_difference(was: Any, now: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in {**was, **now}:
            found = _first_difference(was.get(name), now.get(name), f"{path}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if was == now else (path, was, now)


def _same_hardware(hardware: Hardware, recipe: Recipe, saved: dict[str, Any]) -> Hardware:
    began = saved["hardware"]
    # a machine may be busier today: whether compilation pays is not asked again.
    if recipe.training.compile == "auto":
        hardware = replace(hardware, compiled=began["compile"], compile_reason=began["compile_reason"])
    now = hardware.describe()
    for name in ("device", "threads", "precision", "compile"):
        if now[name] != began[name]:
            raise StateError(
                f"resume must be exact, and training.{name} was {began[name]!r} and is now {now[name]!r}. "
                "Repeat it, or train again with --overwrite."
            )
    return hardware


def _budget_in_words(recipe: Recipe) -> str:
    training = recipe.training
    for name in ("steps", "tokens", "epochs", "minutes"):
        if getattr(training, name) is not None:
            return f"{getattr(training, name):g} {name}"
    return "3 minutes"

"""The loop does what its settings say: budgets, accumulation, clipping, precision, patience, and what ends it."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import build_decoder
from rhapsode.runfolder import RunFolder
from rhapsode.text.batches import WindowSampler
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.shards import TokenArray
from rhapsode.training.checkpoint import latest_checkpoint, load_checkpoint, load_weights
from rhapsode.training.config import load_recipe
from rhapsode.training.hardware import Hardware
from rhapsode.training.loop import Loop, Report
from rhapsode.training.metrics import MetricsLog
from rhapsode.training.optimizer import build_optimizers
from rhapsode.training.schedule import build_budget
from tiny_runs import make_words, read_metrics

SEQ_LEN = 16
SIZES = {"vocab_size": 259, "width": 16, "num_layers": 2, "num_heads": 2, "seq_len": SEQ_LEN}


def make_tokens(words: int, seed: int) -> TokenArray:
    """Encode one short document after another."""
    tokenizer = BytesTokenizer()
    pieces, starts, size = [], [], 0
    for part in range(words // 5):
        ids = tokenizer.encode(make_words(5, seed=seed * 1000 + part))
        starts.append(size)
        pieces.append(np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id]]).astype(tokenizer.dtype))
        size += len(pieces[-1])
    return TokenArray(np.concatenate(pieces), np.array(starts, dtype=np.int64), size)


TRAIN, VALIDATION = make_tokens(1000, 0), make_tokens(60, 1)


def make_loop(out: Path, precision: torch.dtype = torch.float32, recipe: str = "rhapsode", **settings: Any) -> Loop:
    """Build a loop over a model of ten thousand parameters."""
    values = {"batch_size": 4, "warmup_steps": 2, **settings}
    if not {"minutes", "tokens", "epochs"} & set(values):
        values.setdefault("steps", 10)
    config = load_recipe(recipe, {"training": values}).training
    model_config = load_recipe(recipe, {"model": {**SIZES, "hashed_ngrams": {"num_buckets": 16}}}).model
    model = build_decoder(ModelConfig.model_validate(dict(model_config)), config.seed)
    folder = RunFolder(out)
    folder.create()
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * SEQ_LEN
    return Loop(
        model=model,
        optimizers=build_optimizers(model, config),
        sampler=WindowSampler(TRAIN, SEQ_LEN, config.batch_size, config.seed),
        validation=VALIDATION,
        num_bytes=BytesTokenizer().num_bytes,
        config=config,
        budget=build_budget(config, tokens_per_step, len(TRAIN)),
        hardware=Hardware(torch.device("cpu"), 1, precision, False, "switched off"),
        folder=folder,
        report=lambda line: None,
    )


def train(out: Path, **settings: Any) -> Loop:
    loop = make_loop(out, **settings)
    loop.train(resume=False)
    return loop


def distance(a: Loop, b: Loop) -> float:
    """Largest difference of a weight, over the largest weight."""
    pairs = list(zip(a.model.parameters(), b.model.parameters(), strict=True))
    return max(float((x - y).detach().abs().max()) for x, y in pairs) / max(
        float(x.detach().abs().max()) for x, _ in pairs
    )


def record_gradients(loop: Loop) -> list[list[torch.Tensor]]:
    """Return lists that will hold each parameter's gradient at every step."""
    parameters = list(loop.model.parameters())
    seen: list[list[torch.Tensor]] = [[] for _ in parameters]
    index = {parameter: number for number, parameter in enumerate(parameters)}

    def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                seen[index[parameter]].append(parameter.grad.clone())

    for member in loop.optimizers.members:
        member.register_step_pre_hook(record)
    return seen


def moved(loop: Loop) -> float:
    """Largest change of a weight since the beginning."""
    fresh = build_decoder(loop.model.config, loop.config.seed)
    pairs = zip(loop.model.parameters(), fresh.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


def test_training_learns(tmp_path: Path) -> None:
    loop = train(tmp_path, steps=60)
    rows = MetricsLog(loop.folder).rows()
    assert [row["step"] for row in rows] == list(range(1, 61))
    # at the start every byte is equally likely, up to the noise of embeddings.
    assert rows[0]["train_nats"] == pytest.approx(np.log(259), rel=0.05)
    assert np.mean([row["train_nats"] for row in rows[-10:]]) < 0.6 * rows[0]["train_nats"]
    assert [row["tokens"] for row in rows] == [64 * (i + 1) for i in range(60)]
    assert sum("val_nats" in row for row in rows) == 8


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_is_a_larger_batch(tmp_path: Path, optimizer: str) -> None:
    """4 x 2 windows take the step that 8 windows take.

    The first gradients differ in the order of float32 sums only: of a few hundred terms, so by some tens of units of
    2^-24 relative to the largest. Muon rounds to bfloat16 on the way, where such a difference can flip a bit worth
    2^-8 of one step: hence the 1e-3 over six steps, in which the weights move by twenty times as much.
    """
    settings: dict[str, Any] = {"optimizer": optimizer, "steps": 6, "learning_rate": 0.01}
    large = make_loop(tmp_path / "large", batch_size=8, **settings)
    small = make_loop(tmp_path / "small", batch_size=2, gradient_accumulation_steps=4, **settings)
    gradients = [record_gradients(loop) for loop in (large, small)]
    for loop in (large, small):
        loop.train(resume=False)
    for a, b in zip(*gradients, strict=True):
        assert float((a[0] - b[0]).abs().max()) <= 2e-6 * float(a[0].abs().max())
    assert distance(large, small) < 1e-3
    assert moved(large) > 5e-3
    for a, b in zip(read_metrics(tmp_path / "large"), read_metrics(tmp_path / "small"), strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["train_nats"] == pytest.approx(b["train_nats"], rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_of_the_loss_change_nothing(tmp_path: Path, chunk: int) -> None:
    # the same sums in another order; see the tolerance above.
    whole = train(tmp_path / "whole", steps=4)
    parts = train(tmp_path / "parts", steps=4, loss_chunk_size=chunk)
    assert distance(whole, parts) < 1e-3


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_low_precision_trains(tmp_path: Path, precision: torch.dtype, recipe: str) -> None:
    loop = train(tmp_path / "low", precision=precision, recipe=recipe, steps=12)
    exact = train(tmp_path / "exact", recipe=recipe, steps=12)
    assert loop._scaler.is_enabled() == (precision == torch.float16)
    assert all(parameter.dtype == torch.float32 for parameter in loop.model.parameters())
    assert all(parameter.isfinite().all() for parameter in loop.model.parameters())
    # bfloat16 keeps 8 bits: a loss of 5 nats is good to a few hundredths.
    for low, full in zip(MetricsLog(loop.folder).rows(), MetricsLog(exact.folder).rows(), strict=True):
        assert low["train_nats"] == pytest.approx(full["train_nats"], rel=0.02)


def test_an_overflow_skips_a_step_and_halves_the_scale(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, precision=torch.float16, steps=3)
    # far beyond float16: the first gradients must overflow.
    loop._scaler.load_state_dict({**loop._scaler.state_dict(), "scale": 2.0**40})
    loop.train(resume=False)
    assert loop._scaler.get_scale() < 2.0**40
    assert all(parameter.isfinite().all() for parameter in loop.model.parameters())


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "clipped", grad_clip=1e-3, steps=2)
    seen = record_gradients(loop)
    loop.train(resume=False)
    for step in range(2):
        norm = float(sum(gradients[step].square().sum() for gradients in seen)) ** 0.5
        # what is there beforehand is larger, so the bound is reached.
        assert norm == pytest.approx(1e-3, rel=1e-3)


def test_isolated_documents_are_another_training(tmp_path: Path) -> None:
    mixed, isolated = train(tmp_path / "mixed"), train(tmp_path / "isolated", isolate_documents=True)
    assert distance(mixed, isolated) > 1e-3
    assert all(parameter.isfinite().all() for parameter in isolated.model.parameters())


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    # at this rate the loss falls and rises again.
    loop = make_loop(tmp_path, learning_rate=1.0, cooldown=0.0, steps=40, eval_every=1)
    progress, ended = loop.train(resume=False)
    figures = [row["val_nats"] for row in MetricsLog(loop.folder).rows()]
    assert ended == "budget"
    assert len(figures) == 40
    assert progress.best_nats == min(figures)
    assert progress.best_step == figures.index(min(figures)) + 1 < 40
    best = make_loop(tmp_path / "other")
    load_weights(loop.folder.model, best.model, None)
    start = replace(progress, best_nats=None)
    line = best._evaluate(start, Report(0, 0, 0, 0, 0, 0, 0))
    assert line.val_nats == min(figures)


def test_patience_ends_a_training_that_does_not_improve(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, learning_rate=3.0, cooldown=0.0, steps=60, eval_every=2, patience=3)
    progress, ended = loop.train(resume=False)
    assert ended == "patience"
    assert progress.step == progress.best_step + 6 < 60
    checkpoint = latest_checkpoint(loop.folder)
    assert checkpoint is not None
    assert load_checkpoint(checkpoint)[1].step == progress.step


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_loss_that_is_no_number_names_the_step_and_the_checkpoint(tmp_path: Path, precision: torch.dtype) -> None:
    loop = make_loop(tmp_path, precision=precision, learning_rate=1e6, steps=50, save_every=1, warmup_steps=0)
    with pytest.raises(StateError) as caught:
        loop.train(resume=False)
    checkpoint = latest_checkpoint(loop.folder)
    assert checkpoint is not None
    tensors, progress = load_checkpoint(checkpoint)
    assert str(caught.value) == (
        f"training must have a finite loss; it was not a number at step {progress.step + 1}, and the last good "
        f"checkpoint is {checkpoint}. Lower --learning-rate or set --grad-clip 1."
    )
    assert all(value.isfinite().all() for name, value in tensors.items() if name.startswith("model."))
    assert len(read_metrics(tmp_path)) >= progress.step


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, learning_rate=1e38, steps=1, eval_every=1, warmup_steps=0)
    # one step is enough to leave the numbers of float32, and no loss is computed after it but the evaluation's.
    with pytest.raises(StateError, match=r"it was not a number at step 1, and no checkpoint was written yet\. Lower"):
        loop.train(resume=False)
    assert not loop.folder.model.exists()
    assert latest_checkpoint(loop.folder) is None


def test_a_budget_in_minutes_ends_in_time(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, minutes=1 / 60)
    started = time.perf_counter()
    progress, ended = loop.train(resume=False)
    assert 1 <= progress.elapsed_s <= time.perf_counter() - started
    assert ended == "budget"
    shares = [row["share"] for row in read_metrics(tmp_path)]
    assert len(shares) > 10
    assert shares == sorted(shares)
    # no step begins when the time is over; what may follow the last one is an evaluation.
    assert 1 <= shares.count(1.0) <= 2


def test_a_budget_in_minutes_goes_on_with_what_is_left(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, minutes=1 / 60)
    loop.report = lambda line: signal.raise_signal(signal.SIGINT) if line.share > 0.6 else None
    with pytest.raises(KeyboardInterrupt):
        loop.train(resume=False)
    rest = make_loop(tmp_path, minutes=1 / 60)
    progress, _ = rest.train(resume=True)
    assert progress.elapsed_s >= 1
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows][: progress.step] == list(range(1, progress.step + 1))
    assert [row["elapsed_s"] for row in rows] == sorted(row["elapsed_s"] for row in rows)
    assert 1 <= [row["share"] for row in rows].count(1.0) <= 2


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, save_every=3)

    def press_twice(line: Report) -> None:
        if line.step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    loop.report = press_twice
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.train(resume=False)
    checkpoint = latest_checkpoint(loop.folder)
    assert checkpoint is not None
    assert checkpoint.stem == "step-00000003"
    assert signal.getsignal(signal.SIGINT) is before


def test_metrics_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    loop = train(tmp_path)
    data = loop.folder.metrics.read_bytes()
    loop.folder.metrics.write_bytes(data[:-3])
    with pytest.raises(StateError, match=r"metrics\.jsonl must hold every line up to the last checkpoint; it was cut"):
        make_loop(tmp_path).train(resume=True)
    loop.folder.metrics.unlink()
    with pytest.raises(StateError, match=r"metrics\.jsonl must hold every line"):
        make_loop(tmp_path).train(resume=True)
    # lines after the checkpoint are written again.
    loop.folder.metrics.write_bytes(data + b'{"step": 11}\n{"ste')
    make_loop(tmp_path).train(resume=True)
    assert loop.folder.metrics.read_bytes() == data


def test_a_last_line_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert MetricsLog(folder).rows() == [{"step": 1}, {"step": 2}]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path, recipe="gpt")
    with pytest.raises(
        StateError, match=r"step-00000010\.safetensors must hold the weights of this recipe; '.*' is in"
    ):
        make_loop(tmp_path, recipe="rhapsode").train(resume=True)

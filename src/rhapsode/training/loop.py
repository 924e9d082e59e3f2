"""The training loop, top to bottom."""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhapsode.errors import StateError
from rhapsode.models.decoder import Decoder
from rhapsode.models.scoring import document_numbers, window_bundles
from rhapsode.runfolder import RunFolder
from rhapsode.text.batches import Batch, WindowSampler, sliding_windows
from rhapsode.text.shards import TokenArray
from rhapsode.training.checkpoint import (
    Progress,
    fill_parameters,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from rhapsode.training.config import TrainingConfig
from rhapsode.training.hardware import Hardware
from rhapsode.training.metrics import MetricsLog
from rhapsode.training.optimizer import Optimizers
from rhapsode.training.schedule import Budget, learning_rate_fraction, muon_momentum

SAVE_SECONDS = 30.0
NUM_EVALUATIONS = 8
_SCALER_STATE = ("scale", "_growth_tracker")
# seconds over which the shown speed is averaged.
SPEED_STEPS = 50


@dataclass(frozen=True)
class Report:
    """What the loop tells while it runs. `val_nats` is set after an evaluation, else `None`.

    Nats are per token; `share` is the spent part of the budget.
    """

    step: int
    share: float
    elapsed_s: float
    train_nats: float
    learning_rate: float
    tokens: int
    tokens_per_s: float
    val_nats: float | None = None
    val_bits_per_byte: float | None = None


@dataclass
class Loop:
    """All that one training needs. `train` runs it; nothing here is used before or after."""

    model: Decoder
    optimizers: Optimizers
    sampler: WindowSampler
    validation: TokenArray
    num_bytes: np.ndarray
    config: TrainingConfig
    budget: Budget
    hardware: Hardware
    folder: RunFolder
    report: Callable[[Report], None]

    def __post_init__(self) -> None:
        self._metrics = MetricsLog(self.folder)
        self._scaler = torch.amp.GradScaler(self.hardware.device.type, enabled=self.hardware.precision == torch.float16)

    def train(self, *, resume: bool) -> tuple[Progress, str]:
        """Train until the budget is spent or patience is out; returns the progress and why it ended.

        Ctrl-C saves a checkpoint and raises KeyboardInterrupt.

        Raises:
            StateError: if the loss is not a number (the last good checkpoint is named), or a file is damaged.
        """
        progress = self._start(resume)
        config, model = self.config, self.model
        model.compute_dtype = self.hardware.precision
        loss_of = torch.compile(model.loss, dynamic=False) if self.hardware.compiled else model.loss
        started = time.perf_counter() - progress.elapsed_s
        last_saved = time.perf_counter()
        recent: list[tuple[float, float]] = []
        evaluations = int(self.budget.progress(progress.step, progress.elapsed_s) * NUM_EVALUATIONS)
        ended = "budget"
        with _Interruption() as interruption:
            while (share := self.budget.progress(progress.step, progress.elapsed_s)) < 1:
                if config.patience is not None and progress.evaluations_since_best >= config.patience:
                    ended = "patience"
                    break
                rate = learning_rate_fraction(share, progress.step, config)
                self.optimizers.set_rate(rate, muon_momentum(progress.step))
                loss = self._step(progress.step, loss_of)
                if not math.isfinite(loss):
                    raise self._not_finite(progress.step + 1)
                progress.step += 1
                progress.elapsed_s = time.perf_counter() - started
                recent = [*recent[-SPEED_STEPS:], (progress.elapsed_s, loss)]
                line = self._line(progress, rate, recent)
                if self._evaluation_due(progress, evaluations):
                    evaluations += 1
                    line = self._evaluate(progress, line)
                    progress.elapsed_s = time.perf_counter() - started
                self._log(progress, line)
                if interruption.asked or self._save_due(progress, last_saved):
                    self._save(progress)
                    last_saved = time.perf_counter()
                    progress.elapsed_s = time.perf_counter() - started
                if interruption.asked:
                    raise KeyboardInterrupt
        self._finish(progress, recent)
        return progress, ended

    def _step(self, step: int, loss_of: Callable[..., Tensor]) -> float:
        """One optimizer step: forward and backward over every micro-batch, then the update."""
        accumulate = self.config.gradient_accumulation_steps
        total = 0.0
        for index in range(step * accumulate, (step + 1) * accumulate):
            inputs, targets, segments, bundles = self._tensors(self.sampler.batch(index))
            loss = loss_of(inputs, targets, segments, self.config.loss_chunk_size, bundles).mean() / accumulate
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        for member in self.optimizers.members:
            self._scaler.unscale_(member)
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        for member in self.optimizers.members:
            self._scaler.step(member)
        self._scaler.update()
        self.model.zero_grad(set_to_none=True)
        return total

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        device = self.hardware.device
        segments = torch.from_numpy(batch.segments).to(device) if self.config.isolate_documents else None
        inputs, targets = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (batch.inputs, batch.targets))
        bundles = None
        if self.model.config.streams:
            past = torch.from_numpy(batch.past(self.model.embedder.past_tokens)).to(device)
            bundles = self.model.encode_past(past, inputs, targets)
        return inputs, targets, segments, bundles

    @torch.no_grad()
    def _evaluate(self, progress: Progress, line: Report) -> Report:
        """Score the first `eval_tokens` of the validation text in disjoint windows; keep the best weights."""
        seq_len = self.model.config.seq_len
        ids, starts = self.validation.ids[: self.config.eval_tokens + 1], self.validation.doc_starts
        head = TokenArray(ids, starts[starts < len(ids)], 0)
        nats, count, text_nats, text_bytes = 0.0, 0, 0.0, 0
        # never larger than what there is to score: a batch of padding costs as much as one of text.
        batch_size = max(1, min(self.config.batch_size, len(head) // seq_len))
        for index, (inputs, targets, mask) in enumerate(sliding_windows(head, seq_len, seq_len, batch_size)):
            device = self.hardware.device
            isolate = self.config.isolate_documents
            segments = torch.from_numpy(document_numbers(inputs)).to(device) if isolate else None
            read, wanted = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
            bundles = window_bundles(self.model, head, seq_len, index, read, wanted)
            losses = self.model.loss(read, wanted, segments, bundles=bundles)
            scored = losses.cpu().numpy()[mask].astype(np.float64)
            sizes = self.num_bytes[targets[mask]]
            nats, count = nats + scored.sum(), count + scored.size
            text_nats, text_bytes = text_nats + scored[sizes > 0].sum(), text_bytes + int(sizes.sum())
        mean = nats / count
        if not math.isfinite(mean):
            raise self._not_finite(progress.step)
        if progress.best_nats is None or mean < progress.best_nats:
            progress.best_nats, progress.best_step, progress.evaluations_since_best = mean, progress.step, 0
            save_weights(self.folder.model, self.model)
        else:
            progress.evaluations_since_best += 1
        bits = text_nats / (math.log(2.0) * max(1, text_bytes))
        return Report(**{**line.__dict__, "val_nats": mean, "val_bits_per_byte": bits})

    def _evaluation_due(self, progress: Progress, done: int) -> bool:
        if self.config.eval_every is not None:
            return progress.step % self.config.eval_every == 0
        return self.budget.progress(progress.step, progress.elapsed_s) >= (done + 1) / NUM_EVALUATIONS

    def _save_due(self, progress: Progress, last_saved: float) -> bool:
        if self.config.save_every is not None:
            return progress.step % self.config.save_every == 0
        return time.perf_counter() - last_saved > SAVE_SECONDS

    def _line(self, progress: Progress, rate: float, recent: list[tuple[float, float]]) -> Report:
        tokens_per_step = self.tokens_per_step
        (first_s, _), (last_s, loss) = recent[0], recent[-1]
        speed = (len(recent) - 1) * tokens_per_step / (last_s - first_s) if len(recent) > 1 else 0.0
        return Report(
            step=progress.step,
            share=min(1.0, self.budget.progress(progress.step, progress.elapsed_s)),
            elapsed_s=progress.elapsed_s,
            train_nats=loss,
            learning_rate=rate * self.config.learning_rate,
            tokens=progress.step * tokens_per_step,
            tokens_per_s=speed,
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.config.batch_size * self.config.gradient_accumulation_steps * self.model.config.seq_len

    def _log(self, progress: Progress, line: Report) -> None:
        progress.metrics_bytes = self._metrics.append({k: v for k, v in line.__dict__.items() if v is not None})
        self.report(line)

    def _save(self, progress: Progress) -> None:
        tensors: dict[str, Tensor] = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        if not all(torch.isfinite(parameter).all() for parameter in tensors.values()):
            raise self._not_finite(progress.step)
        tensors |= self.optimizers.state_tensors()
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            tensors |= {f"scaler.{key}": torch.tensor(state[key], dtype=torch.float64) for key in _SCALER_STATE}
        self._metrics.sync()
        save_checkpoint(self.folder, tensors, progress)

    def _start(self, resume: bool) -> Progress:
        """Take up the newest checkpoint, or begin."""
        path = latest_checkpoint(self.folder) if resume else None
        if path is None:
            self._metrics.clear()
            return Progress()
        tensors, progress = load_checkpoint(path)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        fill_parameters(self.model, weights, str(path.with_suffix(".safetensors")))
        self.optimizers.load_state_tensors({k: v for k, v in tensors.items() if k.startswith("optimizer.")})
        if self._scaler.is_enabled():
            state = {key: tensors[f"scaler.{key}"].item() for key in _SCALER_STATE}
            self._scaler.load_state_dict({**self._scaler.state_dict(), **state})
        self._metrics.cut(progress.metrics_bytes)
        return progress

    def _finish(self, progress: Progress, recent: list[tuple[float, float]]) -> None:
        """A last evaluation if none fell on the last step, and a last checkpoint."""
        last = self._metrics.rows()[-1]
        if "val_nats" not in last:
            # a resume may find every step done.
            recent = recent or [(progress.elapsed_s, last["train_nats"])]
            rate = learning_rate_fraction(1.0, progress.step, self.config)
            self._log(progress, self._evaluate(progress, self._line(progress, rate, recent)))
        self._save(progress)

    def _not_finite(self, step: int) -> StateError:
        last = latest_checkpoint(self.folder)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        return StateError(
            f"training must have a finite loss; it was not a number at step {step}, and {kept}. "
            "Lower --learning-rate or set --grad-clip 1."
        )


class _Interruption:
    """Turns the first Ctrl-C into a request that the loop sees between two steps, so that no half-updated
    weights are saved. A second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> "_Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def quiet(line: Report) -> None:
    """Report nothing."""

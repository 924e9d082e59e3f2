"""The training loop of an embedding, top to bottom."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhapsode.errors import StateError, UserError
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint
from rhapsode.training.embedding.config import EmbeddingConfig, cosine_rate
from rhapsode.training.embedding.data import BatchOf, EvalData
from rhapsode.training.embedding.objectives import Target
from rhapsode.training.metrics import MetricsLog

LOG_EVERY = 10
_STORE = "store"
_BEST = "best"
_GRAD_NORM = "grad_norm"


@dataclass(frozen=True)
class Figures:
    """Of one evaluation: nats of the target among all candidates, and the shares found first and in the first five."""

    loss: float
    top1: float
    top5: float


@dataclass
class EmbeddingLoop:
    """All that the training of one embedding needs."""

    embedding: HolographicEmbedding
    target: Target
    config: EmbeddingConfig
    batch_of: BatchOf
    eval_data: EvalData
    folder: RunFolder
    say: Callable[[str], None] = field(default=print)

    def __post_init__(self) -> None:
        self._metrics = MetricsLog(self.folder)
        self.optimizer = torch.optim.AdamW(
            self.embedding.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.best = self.embedding.store.weight.detach().clone()
        self.grad_norm = 0.0

    def train(self, *, resume: bool = False) -> tuple[Progress, Figures]:
        """Train to the last step or until patience is out; the embedding then holds the store of the best evaluation.

        Returns:
            The progress and the figures of the best store. Ctrl-C saves a checkpoint and raises KeyboardInterrupt.

        Raises:
            UserError: if `eval_data` is no factory.
            StateError: if the loss is not a number, an evaluation finds no data, or a checkpoint is damaged.
        """
        config = self.config
        progress = self._start(resume)
        began = time.perf_counter() - progress.elapsed_s
        try:
            while progress.step < config.max_steps and not self._patience_is_out(progress):
                rate = cosine_rate(progress.step + 1, config.learning_rate, config.warmup_steps, config.max_steps)
                loss = self._step(progress.step, rate)
                progress.step += 1
                progress.elapsed_s = time.perf_counter() - began
                if progress.step % LOG_EVERY == 0 or progress.step == config.max_steps:
                    self.say(f"step {progress.step}: loss={loss:.4f}, grad_norm={self.grad_norm:.2f}, lr={rate:.2e}")
                    self._log({"step": progress.step, "loss": loss, "grad_norm": self.grad_norm, "lr": rate}, progress)
                if progress.step % config.eval_every == 0 or progress.step == config.max_steps:
                    self._evaluate(progress)
                if progress.step % config.save_every == 0:
                    self._save(progress)
        except KeyboardInterrupt:
            self._save(progress)
            raise
        self._save(progress)
        self.embedding.store.weight.data.copy_(self.best)
        return progress, self.evaluate()

    def evaluate(self) -> Figures:
        """Score the store on a fresh iterator of the evaluation data.

        Raises:
            UserError: if `eval_data` cannot be called.
            StateError: if the iterator has nothing: an exhausted one must not look like a loss of zero.
        """
        if not callable(self.eval_data):
            raise UserError(
                "evaluation data must be a callable that returns a fresh iterator; "
                f"got {type(self.eval_data).__name__}. Wrap it in a lambda."
            )
        nats, top1, top5, count = 0.0, 0, 0, 0
        for pairs in self.eval_data():
            scores = self.target.score(self.embedding, pairs)
            nats, count = nats + scores.nats, count + scores.count
            top1, top5 = top1 + scores.top1, top5 + scores.top5
        if count == 0:
            raise StateError(
                "evaluation data must give batches every time it is called; got an exhausted iterator. "
                "Return a new iterator from each call."
            )
        return Figures(nats / count, top1 / count, top5 / count)

    def _step(self, step: int, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.target.loss(self.embedding, self.batch_of(step), step)
        value = loss.item()
        if not math.isfinite(value):
            raise StateError(
                f"training must have a finite loss; it was not a number at step {step + 1}. Lower --learning-rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.embedding.parameters(), self.config.clip_norm)
        self.grad_norm = float(norm)
        self.optimizer.step()
        return value

    def _evaluate(self, progress: Progress) -> None:
        figures = self.evaluate()
        self.say(f"[EVAL] loss={figures.loss:.4f}, top1={figures.top1:.2%}, top5={figures.top5:.2%}")
        self._log({"step": progress.step, "eval": figures.__dict__}, progress)
        if progress.best_nats is None or figures.loss < progress.best_nats:
            progress.best_nats, progress.best_step, progress.evaluations_since_best = figures.loss, progress.step, 0
            self.best = self.embedding.store.weight.detach().clone()
        else:
            progress.evaluations_since_best += 1

    def _patience_is_out(self, progress: Progress) -> bool:
        return self.config.patience is not None and progress.evaluations_since_best >= self.config.patience

    def _log(self, line: dict[str, object], progress: Progress) -> None:
        progress.metrics_bytes = self._metrics.append(line)

    def _save(self, progress: Progress) -> None:
        self._metrics.sync()
        weight = self.embedding.store.weight
        tensors: dict[str, Tensor] = {_STORE: weight, _BEST: self.best, _GRAD_NORM: torch.tensor(self.grad_norm)}
        tensors |= {f"optimizer.{name}": value for name, value in self.optimizer.state[weight].items()}
        save_checkpoint(self.folder, tensors, progress)

    def _start(self, resume: bool) -> Progress:
        path = latest_checkpoint(self.folder) if resume else None
        if path is None:
            self._metrics.clear()
            return Progress()
        tensors, progress = load_checkpoint(path)
        weight = self.embedding.store.weight
        if not {_STORE, _BEST, _GRAD_NORM} <= set(tensors) or tensors[_STORE].shape != weight.shape:
            raise StateError(f"{path} must be of an embedding of this size; it is of another. Train again.")
        weight.data.copy_(tensors[_STORE])
        self.best = tensors[_BEST]
        self.grad_norm = tensors[_GRAD_NORM].item()
        state = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
        if state:
            self.optimizer.state[weight] = state
        self._metrics.cut(progress.metrics_bytes)
        return progress

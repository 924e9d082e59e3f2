"""One update of a field that learns from its teacher: both stages by one gradient, then moves of idle units.

Shape letters: N positions of a batch, C vocabulary, V classes, K ids kept of the teacher.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.models.field.base import CrossFitted
from rhapsode.models.field.contexts import SparseContexts, last_windows
from rhapsode.models.field.model import DenseStage, FieldModel
from rhapsode.models.field.shortlist import class_log_probs
from rhapsode.nn.field import Field, FieldConfig, Relocator, UnitStatistics
from rhapsode.nn.field.seeding import seed_field
from rhapsode.training.distill.blocks import Block
from rhapsode.training.distill.config import DistillConfig
from rhapsode.training.distill.losses import distillation_loss
from rhapsode.training.distill.shards import Targets

# contexts of a batch that are offered to the queue: it keeps few of them anyway.
_OFFERED = 16
_WARMUP_STEPS = 20
_COOLDOWN = 0.5


class Student:
    """A field model in training, with what is known of its units."""

    def __init__(
        self,
        model: FieldModel,
        config: DistillConfig,
        cross: CrossFitted | None,
        contexts: Callable[[Block], Tensor | SparseContexts] | None = None,
    ) -> None:
        """Prepare the optimizer.

        Args:
            cross: counts that have not seen the stretch that is learnt; None where the base counts no n-grams.
            contexts: gives what the first stage reads of a block; without it, it is projected each time.
        """
        self.model, self.config, self._cross = model, config, cross
        self.contexts = contexts or (lambda block: model.project_block(block.past, block.ids, block.raw))
        self.statistics = UnitStatistics(model.field.num_units, config.relocation.decay)
        self.relocator = Relocator(config.relocation, self.statistics, judge_residuals, config.seed)
        self._told = self._last_round = 0
        self.has_units = False
        first = [] if model.stage1 is None else list(model.stage1.parameters())
        for parameter in first:
            parameter.requires_grad_(config.joint == "joint")
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.99), fused=True
        )

    @property
    def relocations(self) -> int:
        """Moves so far."""
        return len(self.relocator.events)

    @torch.no_grad()
    def seed_first_stage(self, block: Block) -> None:
        """Put the units of a first stage that is a field where there is text; of another stage, nothing."""
        if not isinstance(self.model.stage1, Field):
            return
        projected, generator = self.contexts(block), torch.Generator().manual_seed(self.config.seed)
        # without a target of its own, it starts as a map of its input: only where its units stand matters.
        assert isinstance(projected, Tensor)
        drawn = torch.randn(len(projected), self.model.stage1_dim, generator=generator)
        placed = self.model.stage1.config.model_copy(update={"init": "random"})
        self._seed(self.model.stage1, placed, projected, drawn, generator)

    def seed_units(self, block: Block) -> None:
        """Start the units from a stretch of text by their `init` setting, at what the line leaves over; they join."""
        generator = torch.Generator().manual_seed(self.config.seed)
        model = self.model
        with torch.no_grad():
            full = self.base(block)
            h = model.stage_one(self.contexts(block), full)
            base = self._class_base(model.weigh(h, full)) + model.line(h)
            wanted = class_targets(block.targets, model, base.log_softmax(dim=1), self.config.hard)
            _, residuals = judge_residuals(torch.zeros_like(base), torch.cat([base, wanted], dim=1))
            # what the bias has learnt with the line stays; a start from clusters sets it to their mean.
            bias = model.field.bias.clone()
            model.field.bias.zero_()
        self._seed(model.field, model.field.config, h, residuals, generator)
        with torch.no_grad():
            model.field.bias.add_(bias)
        self.has_units = True

    @staticmethod
    def _seed(field: Field, config: FieldConfig, x: Tensor, targets: Tensor, generator: torch.Generator) -> None:
        own, field.config = field.config, config
        seed_field(field, x, targets, generator)
        field.config = own

    def step(self, block: Block, progress: float, number: int) -> dict[str, Any]:
        """Learn from a batch and return what goes to the log. `progress` is the spent share of the budget."""
        rate = self.config.learning_rate * rate_fraction(progress, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        projected = self.contexts(block)
        base = self.base(block)
        h = self.model.stage_one(projected, base)
        out = self.model.explain(h) if self.has_units else None
        weighed = self.model.weigh(h, base)
        outputs = self.model.line(h) if out is None else out.outputs
        log_probs = (weighed + self.model.spread(outputs)).log_softmax(dim=1)
        t = block.targets
        losses, soft = distillation_loss(
            log_probs,
            torch.from_numpy(t.next_ids),
            torch.from_numpy(t.top_ids),
            torch.from_numpy(t.top_log_probs),
            torch.from_numpy(t.tail_log_mass),
            self.config.hard,
        )
        self.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        gradient_norms = _row_norms(self.model.field.controls.grad)
        row = {"train_loss": float(losses.detach().mean()), "train_kl": float(soft.detach().mean()), "rate": rate}
        row["stage1_gradient"] = self._stage1_gradient()
        self.optimizer.step()
        self.model.project_parameters()
        losses = losses.detach()
        if out is not None:
            self.statistics.update(out.ids, out.parts.weights, out.parts.distances, losses, gradient_norms)
            if self.config.relocate:
                row["moved"] = self._relocate(h.detach(), weighed.detach(), block.targets, losses)
        return row

    @torch.no_grad()
    def fit_whitening(self, blocks: Iterable[Block]) -> None:
        """Fit the projection's whitening on some text, and change the first stage so that its outputs stay."""
        assert isinstance(self.model.stage1, DenseStage)
        statistics = self.model.projection.inner.statistics()
        for block in blocks:
            windows = last_windows(block.past, block.ids, self.model.config.window)
            statistics.update(self.model.projection.statistics(windows, block.raw))
        self.model.stage1.absorb(self.model.projection.fit_whitening(statistics))

    def base(self, block: Block) -> Float[Tensor, "N C"]:
        """Return the log-probabilities that a block is learnt over, by counts that have not seen it."""
        if self._cross is None:
            return self.model.base.read(block.past, block.ids).flatten(0, 1)
        return self._cross.read(block.starts, block.past, block.ids).flatten(0, 1)

    def _class_base(self, base: Tensor) -> Tensor:
        return class_log_probs(base, self.model.class_of, self.model.shortlist.num_classes)

    def told_relocations(self, *, everything: bool) -> list[dict[str, Any]]:
        """Return the moves that were not told before, once it is known how their contexts fare a round later.

        Args:
            everything: those too whose round is not over, as at the end of a training.
        """
        events = self.relocator.events
        known = len(events) if everything else len(events) - self._last_round
        new = events[self._told : known]
        self._told = max(self._told, known)
        return [event._asdict() for event in new]

    def _relocate(self, h: Tensor, base: Tensor, targets: Targets, losses: Tensor) -> int:
        worst = losses.topk(min(_OFFERED, len(losses))).indices
        rows = worst.numpy()
        chosen = Targets(**{name: getattr(targets, name)[rows] for name in Targets.__dataclass_fields__})
        class_base = self._class_base(base[worst])
        if self.model.linear is not None:
            # what a moved unit is to mend is what the line beside the field leaves.
            class_base = class_base + self.model.linear(h[worst]).detach()
        wanted = class_targets(chosen, self.model, class_base, self.config.hard)
        self.relocator.offer(h[worst], torch.cat([class_base, wanted], dim=1), losses[worst])
        moved = self.relocator.step(self.model.field, self.optimizer)
        self._last_round = len(moved) or self._last_round
        return len(moved)

    def _stage1_gradient(self) -> float:
        if self.model.stage1 is None:
            return 0.0
        squares = [p.grad.square().sum() for p in self.model.stage1.parameters() if p.grad is not None]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def parameter_groups(model: FieldModel, config: DistillConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups, each with its `share` of the learning rate; what is frozen is in none."""
    first = [] if model.stage1 is None else [p for p in model.stage1.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in model.field.parameters() if p is not model.field.controls],
            "weight_decay": 0.0,
            "share": 1.0,
        },
        {"params": [model.field.controls], "weight_decay": 0.0, "share": config.control_rate},
        {
            "params": [line.weight for line in (model.linear, model.trust) if line is not None],
            "weight_decay": 0.0,
            "share": config.linear_rate,
        },
        {
            "params": first,
            "weight_decay": config.weight_decay,
            "share": config.table_rate if model.reads_sketches else config.stage1_rate,
        },
    ]
    return [group for group in groups if group["params"]]


def rate_fraction(progress: float, step: int) -> float:
    """Return the rate over its peak: it rises over 20 updates, and falls in a line over the last half."""
    rise = min(1.0, (step + 1) / _WARMUP_STEPS)
    return max(0.0, min(rise, (1 - progress) / _COOLDOWN))


def class_targets(
    targets: Targets, model: FieldModel, class_base: Float[Tensor, "N V"], hard: float
) -> Float[Tensor, "N V"]:
    """Return what the classes should be as probabilities: (1 - hard) teacher + hard what came.

    The teacher's mass outside its likeliest ids is spread as the base spreads it.
    """
    rows = len(targets.ids)
    class_of = model.class_of
    teacher = torch.from_numpy(targets.tail_log_mass).exp()[:, None] * class_base.exp()
    top = torch.from_numpy(targets.top_log_probs).exp()
    teacher = teacher.scatter_add(1, class_of[torch.from_numpy(targets.top_ids)], top)
    teacher = teacher / teacher.sum(dim=1, keepdim=True)
    wanted = (1 - hard) * teacher
    came = class_of[torch.from_numpy(targets.next_ids)]
    wanted[torch.arange(rows), came] += hard
    return wanted


def judge_residuals(outputs: Float[Tensor, "N V"], goals: Float[Tensor, "N V2"]) -> tuple[Tensor, Tensor]:
    """Judge what a field adds to a base: the loss of each context, and the change that would mend it.

    Args:
        goals: the base's log-probabilities of the classes, then the wanted probabilities.
    """
    base, wanted = torch.split(goals, outputs.shape[1], dim=1)
    logs = (base + outputs).log_softmax(dim=1)
    # four is one over the largest curvature of the logistic loss.
    return -(wanted * logs).sum(dim=1), 4 * (wanted - logs.exp())


def _row_norms(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.flatten(1).norm(dim=1)

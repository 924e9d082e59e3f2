"""Fitting a field by Adam: minibatches, a held-out part that says when to stop, relocation on the way."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.nn.field.config import RelocationConfig
from rhapsode.nn.field.field import Field
from rhapsode.nn.field.relocation import Judge, Relocation, Relocator, squared_error
from rhapsode.nn.field.statistics import UnitStatistics
from rhapsode.training.field_start import solvable, solve_controls


@dataclass(frozen=True)
class FitPlan:
    """How a field is fitted."""

    learning_rate: float = 0.01
    max_epochs: int = 40
    solve_every: int = 5
    batch_size: int = 64
    weight_decay: float = 0.0
    validation: float = 0.15
    patience: int = 12
    relocation: RelocationConfig | None = None
    seed: int = 0


@dataclass
class FitReport:
    """What a fit did.

    The loss held out at the start and after every epoch; the epoch that was kept (0: the start, -1: a field that says
    zero); the loss held out that it has, infinite if nothing was held out; every move.
    """

    history: list[float]
    best_epoch: int
    held_out: float
    relocations: list[Relocation]


# fewer samples than this cannot spare any to choose an epoch by.
_LEAST_TO_SPLIT = 20


def split_samples(number: int, plan: FitPlan) -> tuple[Int[Tensor, " I"], Int[Tensor, " H"]]:
    """Return which samples are fitted to and which are held out: none of fewer than 20."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(plan.seed))
    held = max(2, round(plan.validation * number)) if number >= _LEAST_TO_SPLIT else 0
    return order[held:], order[:held]


def fit_field(
    field: Field,
    x: Float[Tensor, "S D"],
    targets: Float[Tensor, "S V"],
    plan: FitPlan,
    statistics: UnitStatistics,
    judge: Judge = squared_error,
) -> FitReport:
    """Fit all parameters of a field and leave it at its best epoch.

    The rate falls in a line to zero over `max_epochs`. With `solve_every`, which is for squared errors, all controls
    are solved for anew after so many epochs, Adam moving the rest between (variable projection, Golub & Pereyra 1973),
    and once more for all samples at the end. The best epoch is kept only if on the held-out part it beats a field that
    says zero by more than one standard error of the paired difference; otherwise that is what is left, so that noise is
    not learnt. With fewer than 20 samples nothing is held out, and the start is kept. O(epochs S K (D + V)).
    """
    generator = torch.Generator().manual_seed(plan.seed)
    inside, out = split_samples(len(x), plan)
    solves = plan.solve_every > 0 and solvable(field, len(x))
    if solves:
        solve_controls(field, x[inside], targets[inside])
    if not len(out):
        return FitReport([], 0, float("inf"), [])
    best = _Best(field, _held_out(field, x[out], targets[out], judge))
    optimizer = torch.optim.AdamW(field.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    relocator = Relocator(plan.relocation, statistics, judge, plan.seed) if plan.relocation else None
    for epoch in range(1, plan.max_epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * (1 - (epoch - 1) / plan.max_epochs)
        for ids in torch.split(inside[torch.randperm(len(inside), generator=generator)], plan.batch_size):
            train_step(field, x[ids], targets[ids], optimizer, statistics, judge, relocator)
        if solves and epoch % plan.solve_every == 0:
            solve_controls(field, x[inside], targets[inside])
        best.offer(epoch, field, _held_out(field, x[out], targets[out], judge))
        if epoch - best.epoch >= plan.patience:
            break
    zero, _ = judge(torch.zeros_like(targets[out]), targets[out])
    kept = best.restore(field, zero)
    if solves and kept:
        solve_controls(field, x, targets)
    held = float((best.losses if kept else zero).mean())
    return FitReport(best.history, best.epoch, held, [] if relocator is None else relocator.events)


class _Best:
    """The best state so far and its held-out losses."""

    def __init__(self, field: Field, losses: Tensor) -> None:
        self.losses, self.state, self.epoch = losses, _copy(field), 0
        self.history = [float(losses.mean())]

    def offer(self, epoch: int, field: Field, losses: Tensor) -> None:
        self.history.append(float(losses.mean()))
        if self.history[-1] < float(self.losses.mean()):
            self.losses, self.epoch, self.state = losses, epoch, _copy(field)

    @torch.no_grad()
    def restore(self, field: Field, zero: Tensor) -> bool:
        """Load the best state; if it does not beat the losses `zero` clearly, make the field say zero instead."""
        field.load_state_dict(self.state)
        field.search.reset(rebuild=True)
        gain = zero - self.losses
        if float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5:
            return True
        field.controls.zero_()
        field.bias.zero_()
        self.epoch = -1
        return False


def train_step(
    field: Field,
    x: Float[Tensor, "B D"],
    targets: Float[Tensor, "B V"],
    optimizer: torch.optim.Optimizer,
    statistics: UnitStatistics,
    judge: Judge = squared_error,
    relocator: Relocator | None = None,
) -> float:
    """Do one update, keep the statistics, and move units if a round is due; return the mean loss before it."""
    found = field.explain(x)
    losses, _ = judge(found.outputs, targets)
    optimizer.zero_grad()
    loss = losses.mean()
    # the loss is a sum of functions of one input each, so this is the gradient of the mean.
    loss.backward()  # type: ignore[no-untyped-call]
    assert field.controls.grad is not None
    statistics.update(
        found.ids, found.parts.weights, found.parts.distances, losses, field.controls.grad.flatten(1).norm(dim=1)
    )
    optimizer.step()
    field.project()
    if relocator is not None:
        relocator.offer(x, targets, losses)
        relocator.step(field, optimizer)
    return float(loss.detach())


@torch.no_grad()
def _held_out(field: Field, x: Tensor, targets: Tensor, judge: Judge) -> Tensor:
    return judge(field(x), targets)[0]


def _copy(field: Field) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in field.state_dict().items()}

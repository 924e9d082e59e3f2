"""What the field estimators share: scaling, a linear base, a field on what the base leaves, learning from a stream."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.nn.field.config import FieldConfig, RelocationConfig
from rhapsode.nn.field.field import Field
from rhapsode.nn.field.relocation import Relocator, squared_error
from rhapsode.nn.field.statistics import UnitStatistics
from rhapsode.training.field_fit import FitPlan, FitReport, fit_field, split_samples
from rhapsode.training.field_online import online_step
from rhapsode.training.field_scaling import LinearBase, Scaler
from rhapsode.training.field_start import best_starts

# epochs of the fits that choose a gate.
_TRIAL_EPOCHS = 10


@dataclass(frozen=True)
class ModelPlan:
    """How a field model is made: candidate fields, their fit, and how it learns from a stream."""

    configs: tuple[FieldConfig, ...]
    fit: FitPlan
    linear: bool = True
    online_rate: float = 0.4
    forgetting: tuple[float, ...] = (1.0,)
    replay: int = 0


class FieldModel:
    """scale -> base(x) + field(x) -> scale back, in float64."""

    def __init__(self, x: Float[Tensor, "S D"], y: Float[Tensor, "S V"], plan: ModelPlan) -> None:
        """Fit to samples.

        The field is fitted to the base's residuals, so a linear truth costs it nothing.
        """
        self.plan = plan
        self.scale_x, self.scale_y = Scaler(x), Scaler(y)
        inner, goals = self.scale_x(x), self.scale_y(y)
        self.base = LinearBase(inner, goals, plan.forgetting) if plan.linear else None
        residuals = goals if self.base is None else goals - self.base(inner)
        settings = plan.fit.relocation or RelocationConfig()
        self.field, self.start_error = self._choose(inner, residuals)
        self.statistics = UnitStatistics(self.field.num_units, settings.decay)
        self.report: FitReport = fit_field(self.field, inner, residuals, plan.fit, self.statistics)
        self.relocator = (
            Relocator(plan.fit.relocation, self.statistics, squared_error, plan.fit.seed)
            if plan.fit.relocation
            else None
        )
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._generator = torch.Generator().manual_seed(plan.fit.seed)

    def _choose(self, x: Tensor, residuals: Tensor) -> tuple[Field, float | None]:
        """Return the field to fit: where there are several gates, the one that is best held out after a short fit.

        The start alone misleads: balls start better, and slabs often end better.
        """
        plan = self.plan
        inside, _ = split_samples(len(x), plan.fit)
        starts = best_starts(plan.configs, x[inside], residuals[inside], plan.fit.seed)
        trial = replace(plan.fit, max_epochs=min(_TRIAL_EPOCHS, plan.fit.max_epochs), relocation=None)
        if len(starts) == 1 or not trial.max_epochs:
            return starts[0]
        reports = [fit_field(field, x, residuals, trial, UnitStatistics(field.num_units)) for field, _ in starts]
        best = min(range(len(starts)), key=lambda i: reports[i].held_out)
        return starts[best]

    @property
    def num_targets(self) -> int:
        """V."""
        return len(self.scale_y.mean)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "S D"]) -> Float[Tensor, "S V"]:
        """Predict."""
        inner = self.scale_x(x)
        value = self.field(inner)
        return self.scale_y.invert(torch.as_tensor(value if self.base is None else value + self.base(inner)))

    @torch.no_grad()
    def update(self, x: Float[Tensor, "S D"], y: Float[Tensor, "S V"]) -> Float[Tensor, " S"]:
        """Score samples, then learn from them; return their squared errors in scaled targets, before learning.

        The base goes on by recursive least squares, the field by normalised steps; with `replay`, as many earlier
        samples are drawn again and the field learns from them too. Scales stay those of the fit.
        """
        inner, goals = self.scale_x(x), self.scale_y(y)
        said: Tensor = self.field(inner)
        losses = (goals - (said if self.base is None else said + self.base(inner))).square()
        if self.base is not None:
            self.base.update(inner, goals)
        self._learn(inner, goals)
        if self.plan.replay:
            self._replay(inner, goals)
        return losses.mean(1)

    def _learn(self, inner: Tensor, goals: Tensor) -> None:
        residuals = goals if self.base is None else goals - self.base(inner)
        online_step(self.field, inner, residuals, self.plan.online_rate, self.statistics, squared_error, self.relocator)

    def _replay(self, inner: Tensor, goals: Tensor) -> None:
        if self._recent:
            drawn = torch.randint(len(self._recent), (len(inner),), generator=self._generator).tolist()
            self._learn(*(torch.stack([self._recent[i][part] for i in drawn]) for part in (0, 1)))
        self._recent = [*self._recent, *zip(inner, goals, strict=True)][-self.plan.replay :]


def without_search(plan: ModelPlan) -> ModelPlan:
    """Return a plan that stops at the closed-form start: for the first samples of a stream."""
    return replace(plan, fit=replace(plan.fit, max_epochs=0))


def summary(model: FieldModel) -> dict[str, Any]:
    """Return what a person may want to know of a fit."""
    config = model.field.config
    return {
        "gate": config.gate,
        "num_units": config.num_units,
        "num_active": config.num_active,
        "sharing": config.sharing,
        "start_error": model.start_error,
        "linear_error": None if model.base is None else model.base.error,
        "best_epoch": model.report.best_epoch,
        "relocations": len(model.report.relocations),
        **model.statistics.summary(),
    }

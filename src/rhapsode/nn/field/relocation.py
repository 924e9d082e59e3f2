"""Moving idle units to the contexts on which the loss is highest, and saying what it did."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.field.config import FieldConfig, RelocationConfig
from rhapsode.nn.field.head import FieldOutput
from rhapsode.nn.field.statistics import UnitStatistics
from rhapsode.ops.field.evaluate import Units


@runtime_checkable
class MovableField(Protocol):
    """What relocation asks of a field; `Field` and `LargeField` have it."""

    config: FieldConfig

    def explain(self, x: Float[Tensor, "B D"]) -> FieldOutput: ...
    def decode(self, values: Float[Tensor, "B R"]) -> Float[Tensor, "B V"]: ...
    def encode(self, outputs: Float[Tensor, "B V"]) -> Float[Tensor, "B R"]: ...
    def unit_rows(self, ids: Int[Tensor, " M"]) -> Units: ...
    def write_units(self, ids: Int[Tensor, " M"], units: Units) -> None: ...
    def unit_parameters(self) -> Mapping[str, nn.Parameter]: ...


# (outputs, targets) -> the loss of each context (B,), and the change of its outputs that would mend it (B, V).
Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Relocation(NamedTuple):
    """One move: the loss on its context before and after, beside a queued context of like loss left alone.

    `later` and `control_later` are the losses when the next round began, with all training in between; None until then.
    """

    update: int
    unit: int
    before: float
    after: float
    control_before: float
    control_after: float
    later: float | None = None
    control_later: float | None = None


def squared_error(outputs: Float[Tensor, "B V"], targets: Float[Tensor, "B V"]) -> tuple[Tensor, Tensor]:
    """The judge of regressions: mean squared error, mended by the residual itself."""
    residuals = targets - outputs
    return residuals.square().mean(1), residuals


def cross_entropy(outputs: Float[Tensor, "B V"], targets: Float[Tensor, "B V"]) -> tuple[Tensor, Tensor]:
    """The judge of classifications, targets as probabilities: mended by a step of 2 down the gradient of the logits.

    Two is one over the largest curvature of this loss, so that the step lowers it.
    """
    logs = outputs.log_softmax(1)
    return -(targets * logs).sum(1), 2 * (targets - logs.exp())


class Relocator:
    """A bounded queue of the contexts of highest loss, and the rounds of moves out of it.

    A moved unit's plane and centre go to the context, along a drawn normal; its controls are all set to what the other
    active units say there plus a multiple of the residual, so that the loss falls there (dead-code reset, and the
    dormant units of Sokar et al. 2023, arXiv 2302.12902; growth where the error is, Platt 1991). Its optimizer state
    and statistics are reset.
    """

    def __init__(self, config: RelocationConfig, statistics: UnitStatistics, judge: Judge, seed: int = 0) -> None:
        """Start with an empty queue; `statistics` are those that the training loop updates."""
        self.config, self.statistics, self.judge = config, statistics, judge
        self.events: list[Relocation] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs: Tensor | None = None
        self._targets: Tensor | None = None
        self._losses = torch.zeros(0)
        self._watched: tuple[Tensor, Tensor, int] | None = None

    def __len__(self) -> int:
        """How many contexts are queued."""
        return len(self._losses)

    @torch.no_grad()
    def offer(self, x: Float[Tensor, "B D"], targets: Float[Tensor, "B V"], losses: Float[Tensor, " B"]) -> None:
        """Queue those contexts whose loss is among the highest. What was queued before decays, so that it leaves."""
        kept = self._losses * self.config.decay
        inputs = x.detach() if self._inputs is None else torch.cat([self._inputs, x.detach()])
        goals = targets.detach() if self._targets is None else torch.cat([self._targets, targets.detach()])
        every = torch.cat([kept.to(losses.dtype), losses.detach()])
        best = every.topk(min(self.config.queue_size, len(every))).indices
        self._inputs, self._targets, self._losses = inputs[best], goals[best], every[best]

    @torch.no_grad()
    def step(self, field: MovableField, optimizer: torch.optim.Optimizer | None = None) -> list[Relocation]:
        """Do a round of moves if one is due, and return it.

        Call once after every update. The queue is emptied of the contexts that were moved to.
        """
        updates = int(self.statistics.updates)
        if updates == 0 or updates % self.config.every or not len(self) or self._inputs is None:
            return []
        assert self._targets is not None
        self._look_back(field)
        losses, _ = self.judge(field.explain(self._inputs).outputs, self._targets)
        order = losses.argsort(descending=True)
        idle = self.statistics.idle(self.config.quantile)
        # a context moved to, then one of like loss left alone, and so on down the queue.
        number = min(self.config.max_moves, len(idle), len(order) // 2, field.config.num_units - 1)
        if not number:
            return []
        return self._move(field, idle[:number], order[0 : 2 * number : 2], order[1 : 2 * number : 2], optimizer)

    def _move(
        self,
        field: MovableField,
        ids: Tensor,
        moved: Tensor,
        control: Tensor,
        optimizer: torch.optim.Optimizer | None,
    ) -> list[Relocation]:
        assert self._inputs is not None
        assert self._targets is not None
        before, _ = self.judge(field.explain(self._inputs).outputs, self._targets)
        for unit, spot in zip(ids, moved, strict=True):
            one = slice(int(spot), int(spot) + 1)
            place_unit(field, unit.reshape(1), self._inputs[one], self._targets[one], self.judge, self)
        after, _ = self.judge(field.explain(self._inputs).outputs, self._targets)
        self.statistics.reset_units(ids)
        if optimizer is not None:
            reset_optimizer(optimizer, field.unit_parameters().values(), ids)
        updates = int(self.statistics.updates)
        events = [
            Relocation(updates, int(u), float(before[m]), float(after[m]), float(before[c]), float(after[c]))
            for u, m, c in zip(ids, moved, control, strict=True)
        ]
        both = torch.cat([moved, control])
        self._watched = self._inputs[both], self._targets[both], len(self.events)
        self.events.extend(events)
        rest = torch.ones(len(self), dtype=torch.bool)
        rest[moved] = False
        self._inputs, self._targets, self._losses = self._inputs[rest], self._targets[rest], self._losses[rest]
        return events

    def _look_back(self, field: MovableField) -> None:
        if self._watched is None:
            return
        inputs, targets, start = self._watched
        losses = self.judge(field.explain(inputs).outputs, targets)[0].tolist()
        half = len(losses) // 2
        for i in range(half):
            self.events[start + i] = self.events[start + i]._replace(later=losses[i], control_later=losses[half + i])
        self._watched = None

    @property
    def generator(self) -> torch.Generator:
        """Where the normals of moved units are drawn."""
        return self._generator


def place_unit(
    field: MovableField,
    unit: Int[Tensor, " 1"],
    x: Float[Tensor, "1 D"],
    target: Float[Tensor, "1 V"],
    judge: Judge,
    relocator: Relocator,
) -> None:
    """Move one unit to a context, so that the loss there falls.

    First the unit goes there with controls of zero; then the field says with what weight a it counts there, z' the rest
    of the blend, and its controls become z' / (1 - a) + s r, where r is the residual encoded as controls and
    s = min(1 / a, strength). At s = 1 / a the outputs become what the judge asked for.
    """
    rows = field.unit_rows(unit)
    normal = torch.randn(rows.normals.shape, generator=relocator.generator).to(x)
    normal /= normal.norm(dim=1, keepdim=True)
    rows = rows._replace(
        normals=normal,
        offsets=-(normal * x).sum(1),
        controls=torch.zeros_like(rows.controls),
        centres=None if rows.centres is None else x.clone(),
    )
    field.write_units(unit, rows)
    there = field.explain(x)
    at = (there.ids == unit).to(there.parts.weights.dtype)
    share = float((there.parts.weights * at).sum())
    if share <= 0:
        # so many other units stand on the very spot that this one is not active: it stays, and answers nothing.
        return
    rest = there.parts.values / max(1 - share, 1e-6) if share < 1 else torch.zeros_like(there.parts.values)
    # what the field says once the unit agrees with its neighbours is what the residual is taken of.
    agreed = there.outputs + field.decode(share * rest)
    _, wanted = judge(agreed, target)
    value = rest + min(1 / share, relocator.config.strength) * field.encode(wanted)
    field.write_units(unit, rows._replace(controls=value.unsqueeze(1).expand_as(rows.controls).clone()))


def reset_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], ids: Int[Tensor, " M"]
) -> None:
    """Zero what an optimizer remembers of the rows `ids` of the given parameters: momenta and second moments."""
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[ids] = 0

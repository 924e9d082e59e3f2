"""Learning from a stream with a fitted field: score first, then a normalised step in the controls."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.nn.field.field import Field
from rhapsode.nn.field.head import FieldOutput
from rhapsode.nn.field.relocation import Judge, Relocator
from rhapsode.nn.field.statistics import UnitStatistics
from rhapsode.ops.field.interpolation import interpolation_weights


@torch.no_grad()
def online_step(
    field: Field,
    x: Float[Tensor, "B D"],
    targets: Float[Tensor, "B V"],
    rate: float,
    statistics: UnitStatistics,
    judge: Judge,
    relocator: Relocator | None = None,
) -> Float[Tensor, " B"]:
    """Score a batch, then move the controls of its active units; return the losses before the step.

    Normalised least mean squares (Nagumo & Noda 1967): an input's outputs go `rate` of the way to what the judge wants,
    whatever the weights of its units, so no rate in (0, 1] can diverge on one input; in a batch, the steps of a unit
    are averaged. Planes, bands and centres stay. O(B K (D + R)) after the search.
    """
    found = field.explain(x)
    losses, wanted = judge(found.outputs, targets)
    shares = control_shares(field, found)
    change = field.encode(wanted) / shares.square().sum((1, 2)).clamp_min(1e-6).unsqueeze(1)
    steps = rate * shares.unsqueeze(-1) * change[:, None, None, :]
    flat = found.ids.reshape(-1)
    counts = torch.bincount(flat, minlength=field.num_units).clamp_min(1).to(steps.dtype)
    total = torch.zeros_like(field.controls)
    total.index_add_(0, flat, steps.flatten(0, 1).to(total.dtype))
    total /= counts[:, None, None]
    field.controls.add_(total)
    statistics.update(found.ids, found.parts.weights, found.parts.distances, losses, total.flatten(1).norm(dim=1))
    if relocator is not None:
        relocator.offer(x, targets, losses)
        relocator.step(field)
    return losses


def control_shares(field: Field, found: FieldOutput) -> Float[Tensor, "B K 3"]:
    """Return how much of each active control stands in a field's value; they sum to one for every input."""
    bands: Tensor = field.log_bands.exp()[found.ids]
    inner = interpolation_weights(found.parts.distances, bands[..., 0], bands[..., 1], field.config.interpolation)
    return found.parts.weights.unsqueeze(-1) * inner


@torch.no_grad()
def control_features(field: Field, x: Float[Tensor, "S D"]) -> tuple[Int[Tensor, "S J"], Float[Tensor, "S J"]]:
    """Return which controls answer for each input, as rows of (3 N, R), and with what share. J is three K."""
    found = field.explain(x)
    slots = found.ids.unsqueeze(-1) * 3 + torch.arange(3)
    return slots.flatten(1), control_shares(field, found).flatten(1)

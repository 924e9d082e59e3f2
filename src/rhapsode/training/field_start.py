"""The start of a field in closed form: with planes, centres and gates fixed, its value is linear in its controls."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.field import Field
from rhapsode.nn.field.seeding import seed_field
from rhapsode.ops.ridge import PENALTIES, ridge
from rhapsode.training.field_online import control_features

# one far above all others: the controls are zero, and the field says its bias.
_PENALTIES = (*PENALTIES[1:], 1e12)
# samples that the choice of a start reads; the most controls that are solved for, and the most work in doing so.
_SAMPLES, _CONTROLS, _WORK = 2_000, 1_536, 3e9


def solvable(field: Field, samples: int) -> bool:
    """Say whether so many samples can be solved for in seconds: at most 1,536 controls, S (3N)^2 at most 3e9."""
    number = 3 * field.num_units
    return number <= _CONTROLS and samples * number**2 <= max(_WORK, _SAMPLES * number**2)


@torch.no_grad()
def solve_controls(field: Field, x: Float[Tensor, "S D"], targets: Float[Tensor, "S V"]) -> float | None:
    """Set all controls by ridge regression of the targets on their shares; return its leave-one-out error.

    The shares of an input sum to one, so no intercept is needed, and the bias becomes zero. Returns None, and changes
    nothing, where that is not `solvable`. O(S (3N) min(S, 3N)).
    """
    number = 3 * field.num_units
    if not solvable(field, len(x)):
        return None
    slots, shares = control_features(field, x)
    features = x.new_zeros(len(x), number).scatter_add_(1, slots, shares)
    found = ridge(features, field.encode(targets), _PENALTIES)
    field.controls.copy_(found.weights.reshape(field.num_units, 3, -1))
    field.bias.zero_()
    return found.error


def best_starts(
    configs: Sequence[FieldConfig], x: Float[Tensor, "S D"], targets: Float[Tensor, "S V"], seed: int
) -> list[tuple[Field, float | None]]:
    """Return for every gate the field whose solved start has the least leave-one-out error, and that error; best first.

    Errors are of at most 2,000 samples, the first ones. Fields too large to be solved keep what their seeding gave
    them, the first setting of each gate, and have no error.
    """
    best: dict[str, tuple[Field, float | None]] = {}
    for config in configs:
        field = Field(x.shape[1], targets.shape[1], config, seed).to(x.dtype)
        seed_field(field, x, targets, torch.Generator().manual_seed(seed))
        error = solve_controls(field, x[:_SAMPLES], targets[:_SAMPLES])
        known = best.get(config.gate)
        if known is None or (error is not None and known[1] is not None and error < known[1]):
            best[config.gate] = field, error
    return sorted(best.values(), key=lambda pair: float("inf") if pair[1] is None else pair[1])

"""Ridge regression whose penalty leave-one-out error chooses."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-3, 7))


class Ridge(NamedTuple):
    """weights (D, V); the penalty chosen; the mean squared leave-one-out error over all S x V targets."""

    weights: Tensor
    penalty: float
    error: float


def ridge(
    features: Float[Tensor, "S D"],
    targets: Float[Tensor, "S V"],
    penalties: tuple[float, ...] = PENALTIES,
    intercept_leverage: float = 0.0,
) -> Ridge:
    """Return argmin |features w - targets|^2 + penalty |w|^2 for the best penalty (Hoerl & Kennard 1970).

    Leave-one-out residuals are exact, r / (1 - leverage), out of one singular value decomposition (Allen 1974, PRESS).
    Centre both first where there is an intercept, and add its leverage, one over the number of samples.
    O(S D min(S, D) + penalties S D V).
    """
    left, values, right = torch.linalg.svd(features, full_matrices=False)
    rotated = left.T @ targets
    found: list[tuple[float, float]] = []
    for penalty in penalties:
        shrink = values.square() / (values.square() + penalty)
        leverage = left.square() @ shrink + intercept_leverage
        residuals = (targets - left @ (shrink.unsqueeze(1) * rotated)) / (1 - leverage).clamp_min(1e-6).unsqueeze(1)
        found.append((float(residuals.square().mean()), penalty))
    # of equal errors the largest penalty: a constant target needs no weights.
    error, penalty = min(found, key=lambda pair: (pair[0], -pair[1]))
    weights = right.T @ ((values / (values.square() + penalty)).unsqueeze(1) * rotated)
    return Ridge(weights, penalty, error)


def ridge_plain(features: Float[Tensor, "S D"], targets: Float[Tensor, "S V"], penalty: float) -> tuple[Tensor, float]:
    """Return weights and leave-one-out error for one penalty, fitting once for every sample left out."""

    def solve(some: Tensor, goals: Tensor) -> Tensor:
        eye = torch.eye(features.shape[1], dtype=features.dtype)
        solution: Tensor = torch.linalg.solve(some.T @ some + penalty * eye, some.T @ goals)
        return solution

    errors = []
    for i in range(len(features)):
        rest = [j for j in range(len(features)) if j != i]
        errors.append((features[i] @ solve(features[rest], targets[rest]) - targets[i]).square().mean())
    return solve(features, targets), float(torch.stack(errors).mean())

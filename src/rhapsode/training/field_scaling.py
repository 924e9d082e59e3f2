"""Scaling of inputs and targets, and the linear base under a field: ridge regression that can go on from a stream."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.ops.ridge import ridge

# a column that varies less than this share of its size is constant, its digits all rounding.
_CONSTANT = 1e-10
# deviations past which an input counts as so far.
_FARTHEST = 1e100
# how fast trust follows squared errors of targets of unit variance, and what share of it a sample spreads evenly.
_TRUST_RATE, _TRUST_SHARED = 0.5, 1e-3
_WORST = 1e6
# samples of one step: of many more, a short memory would have none of its digits left.
_MOST = 32


class Scaler:
    """Zero mean and unit variance, column by column; a constant column becomes zero whatever it is later."""

    def __init__(self, values: Float[Tensor, "S D"]) -> None:
        # a large column's squares overflow: scale by the largest entry first.
        size = values.abs().amax(0).clamp_min(torch.finfo(values.dtype).tiny)
        shrunk = values / size
        self.mean = shrunk.mean(0) * size
        deviation = (shrunk - shrunk.mean(0)).square().mean(0).sqrt()
        self.constant = deviation <= _CONSTANT
        self.scale = torch.where(self.constant, torch.ones_like(size), deviation * size)

    def __call__(self, values: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Scale."""
        # halves, since the difference of two large numbers overflows; and no further out than has a finite square.
        scaled = (values / 2 - self.mean / 2) / (self.scale / 2)
        return scaled.clamp(-_FARTHEST, _FARTHEST).masked_fill(self.constant, 0)

    def invert(self, values: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Undo the scaling."""
        return values * self.scale + self.mean


class LinearBase:
    """Ridge regression (Hoerl & Kennard 1970) whose penalty leave-one-out error chooses, continued by recursive least
    squares with forgetting (Plackett 1950). All in float64; O(S D^2 + D^3) to fit, O(D^2) for each later sample.

    With several speeds of forgetting, one regression goes on by each, and what is said is their mean, weighted by how
    well each has said what came lately (fixed share: Herbster & Warmuth 1998): a stream's drift need not be known.
    """

    def __init__(self, x: Float[Tensor, "S D"], y: Float[Tensor, "S V"], forgetting: Sequence[float] = (1.0,)) -> None:
        """Fit; `forgetting` in (0, 1] is the weight of a sample when one more has been seen by `update`."""
        self.forgetting = torch.tensor(forgetting, dtype=x.dtype)
        samples, width = x.shape
        mean_x, mean_y = x.mean(0), y.mean(0)
        found = ridge(x - mean_x, y - mean_y, intercept_leverage=1 / samples)
        self.penalty, self.error = found.penalty, found.error
        # with the intercept as a last row: what recursive least squares goes on from. (F, D + 1, V)
        rows = torch.cat([found.weights, (mean_y - mean_x @ found.weights).unsqueeze(0)])
        self._rows = rows.repeat(len(forgetting), 1, 1)
        ones = torch.cat([x, x.new_ones(samples, 1)], 1)
        penalised = torch.full((width + 1,), self.penalty, dtype=x.dtype)
        penalised[-1] = 1e-6
        self.inverse = torch.linalg.inv(ones.T @ ones + penalised.diag()).repeat(len(forgetting), 1, 1)
        self.trust = torch.full((len(forgetting),), 1 / len(forgetting), dtype=x.dtype)

    @property
    def weights(self) -> Float[Tensor, "D_plus_1 V"]:
        """What is multiplied with an input and a one."""
        return torch.einsum("f,fdv->dv", self.trust, self._rows)

    def __call__(self, x: Float[Tensor, "S D"]) -> Float[Tensor, "S V"]:
        """Predict."""
        weights = self.weights
        return x @ weights[:-1] + weights[-1]

    def update(self, x: Float[Tensor, "S D"], y: Float[Tensor, "S V"]) -> None:
        """Learn from samples that were just seen; what came before fades by `forgetting` a sample."""
        for inputs, goals in zip(torch.split(x, _MOST), torch.split(y, _MOST), strict=True):
            self._step(inputs, goals)

    def _step(self, x: Float[Tensor, "S D"], y: Float[Tensor, "S V"]) -> None:
        """Learn from a few samples at once, by the matrix inversion lemma."""
        ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
        errors = y - ones @ self._rows
        self._trust_again(errors)
        fade = self.forgetting ** len(x)
        prior = self.inverse / fade[:, None, None]
        gain = prior @ ones.T @ torch.linalg.inv(torch.eye(len(x), dtype=x.dtype) + ones @ prior @ ones.T)
        self._rows = self._rows + gain @ errors
        self.inverse = prior - gain @ (ones @ prior)
        self.inverse = (self.inverse + self.inverse.mT) / 2
        # forgetting without new directions blows the inverse up: bound it by what one sample could tell.
        size = self.inverse.diagonal(dim1=1, dim2=2).amax(1)
        self.inverse *= (100 / size).clamp_max(1)[:, None, None]

    def _trust_again(self, errors: Float[Tensor, "F S V"]) -> None:
        # what is past all bounds says which is worst, and must not make nonsense of the others.
        losses = errors.square().mean(2).sum(1).clamp_max(_WORST)
        found = torch.softmax(self.trust.log() - _TRUST_RATE * losses, 0)
        shared = 1 - (1 - _TRUST_SHARED) ** errors.shape[1]
        self.trust = (1 - shared) * found + shared / len(found)

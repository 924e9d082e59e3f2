"""What each unit did lately: how much of the answers it gave, with what error and gradient, how near it was."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class UnitStatistics(nn.Module):
    """Decayed sums for each of N units, kept as float32 buffers that are saved with a field.

    Every update first multiplies all sums by `decay`, those of idle units too: a unit that is never used ages.
    """

    usage: Tensor
    error: Tensor
    gradient: Tensor
    distance: Tensor
    activations: Tensor
    updates: Tensor

    def __init__(self, num_units: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        for name in ("usage", "error", "gradient", "distance", "activations"):
            self.register_buffer(name, torch.zeros(num_units))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(
        self,
        ids: Int[Tensor, "B K"],
        weights: Float[Tensor, "B K"],
        distances: Float[Tensor, "B K"],
        losses: Float[Tensor, " B"],
        gradient_norms: Float[Tensor, " N"] | None = None,
    ) -> None:
        """Note one batch. O(N + B K).

        Args:
            losses: of each input; a unit is charged by its share of the blend.
            gradient_norms: of each unit's controls in this update, if there was one.
        """
        flat = ids.reshape(-1)
        share = weights.detach().float().reshape(-1)
        ones = torch.ones_like(share)
        charged = share * losses.detach().float().repeat_interleave(ids.shape[1])
        for name, values in (
            ("usage", share),
            ("error", charged),
            ("distance", distances.detach().float().abs().reshape(-1)),
            ("activations", ones),
        ):
            getattr(self, name).mul_(self.decay).index_add_(0, flat, values)
        self.gradient.mul_(self.decay)
        if gradient_norms is not None:
            self.gradient.add_(gradient_norms.detach().float())
        self.updates += 1

    @torch.no_grad()
    def reset_units(self, ids: Int[Tensor, " M"]) -> None:
        """Give moved units the median of all, so that they are not moved again before they had a chance."""
        for name in ("usage", "error", "gradient", "distance", "activations"):
            values = getattr(self, name)
            values[ids] = values.median()

    def idle(self, quantile: float) -> Int[Tensor, " M"]:
        """Return the units whose usage or gradient norm is at or under that quantile, idlest first."""
        below = torch.zeros_like(self.usage, dtype=torch.bool)
        for values in (self.usage, self.gradient):
            # without any gradient seen, or with all alike, the quantile would name every unit.
            if bool(values.max() > values.min()):
                below |= values <= kth_smallest(values, quantile)
        found = below.nonzero().squeeze(1)
        return found[self.usage[found].argsort(stable=True)]

    def summary(self) -> dict[str, float]:
        """Return what goes to a log: units in use, how unevenly, mean |distance| and error.

        `active_units` counts those with an activation that decay has not taken under one half; `gini` is 0 when all
        units are used alike, near 1 when one does everything.
        """
        shares, _ = self.usage.double().sort()
        number, total = len(shares), float(shares.sum())
        ranks = torch.arange(1, number + 1, dtype=torch.double)
        gini = float(((2 * ranks - number - 1) * shares).sum()) / (number * total) if total else 0.0
        seen = float(self.activations.sum())
        return {
            "updates": float(self.updates),
            "active_units": float((self.activations >= 0.5).sum()),
            "idle_share": float((self.activations < 0.5).double().mean()),
            "gini": gini,
            "mean_abs_distance": float(self.distance.sum()) / seen if seen else 0.0,
            "mean_loss": float(self.error.sum()) / total if total else 0.0,
        }

    def woken(self, ids: Int[Tensor, "B K"]) -> float:
        """Return the share of inputs among whose active units is one that was idle."""
        return float((self.activations[ids] < 0.5).any(1).double().mean()) if len(ids) else 0.0


def kth_smallest(values: Float[Tensor, " N"], quantile: float) -> float:
    """Return the value at that quantile, no interpolation. O(N); `torch.quantile` refuses more than 16M values."""
    return float(values.kthvalue(max(1, int(quantile * len(values)))).values)

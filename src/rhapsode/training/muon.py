"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rhapsode.ops.newton_schulz import orthogonalize


class Muon(torch.optim.Optimizer):
    """W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonalize(nesterov momentum of the gradient).

    For 2-D parameters. `torch.optim.Muon` computes the same, but multiplies transposed views in every
    iteration, which on a CPU costs several times as much as one transposed copy; a test holds the two
    together. A parameter that stacks several maps, as queries, keys and values are, is orthogonalised map
    by map.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
        parts: Mapping[Tensor, Sequence[int]] | None = None,
    ) -> None:
        """Store the settings.

        Args:
            dtype: of the iterations.
            parts: rows of each map stacked in a parameter; one that is not named is a single map.
        """
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype
        self._parts = dict(parts or {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = group["momentum"]
                state["momentum"].lerp_(parameter.grad, 1 - momentum)
                update = parameter.grad.lerp(state["momentum"], momentum)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                sizes = list(self._parts.get(parameter, parameter.shape[:1]))
                for rows, change in zip(parameter.split(sizes), update.split(sizes), strict=True):
                    scale = max(1, change.shape[0] / change.shape[1]) ** 0.5
                    rows.add_(orthogonalize(change, dtype=self._dtype), alpha=-group["lr"] * scale)

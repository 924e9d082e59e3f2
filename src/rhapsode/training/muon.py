"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from rhapsode.ops.newton_schulz import orthogonalize


class Muon(torch.optim.Optimizer):
    """W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonalize(nesterov momentum of the gradient).

    For 2-D parameters. `torch.optim.Muon` computes the same, but multiplies transposed views in every
    iteration, which on a CPU costs several times as much as one transposed copy; a test holds the two
    together.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Store the settings; `dtype` is that of the iterations."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

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
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(
                    orthogonalize(update, dtype=self._dtype), alpha=-group["lr"] * max(1, rows / columns) ** 0.5
                )

"""Which parameter is updated by what, and at which rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rhapsode.models.decoder import Decoder
from rhapsode.nn.linear import Linear
from rhapsode.training.config import TrainingConfig
from rhapsode.training.muon import Muon


@dataclass
class Optimizers:
    """The optimizers of one model, stepped together; each group remembers its peak rate as `peak_lr`."""

    members: list[torch.optim.Optimizer]
    names: dict[Tensor, str]

    def set_rate(self, fraction: float, momentum: float) -> None:
        """Set every group's rate to `fraction` of its peak, and Muon's momentum."""
        for group in self.groups():
            group["lr"] = group["peak_lr"] * fraction
            if "momentum" in group:
                group["momentum"] = momentum

    def groups(self) -> Iterator[dict[str, Any]]:
        """Iterate over the parameter groups of all members."""
        for member in self.members:
            yield from member.param_groups

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state as `optimizer.<parameter>.<key>` -> tensor."""
        tensors = {}
        for member in self.members:
            for parameter, state in member.state.items():
                for key, value in state.items():
                    tensors[f"optimizer.{self.names[parameter]}.{key}"] = value
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave."""
        by_name = {name: parameter for parameter, name in self.names.items()}
        owner = {p: member for member in self.members for group in member.param_groups for p in group["params"]}
        for full_name, value in tensors.items():
            name, _, key = full_name.removeprefix("optimizer.").rpartition(".")
            parameter = by_name[name]
            # a step counter stays where its optimizer made it; everything else follows its parameter.
            place = value if value.ndim == 0 else value.to(parameter.device)
            owner[parameter].state[parameter][key] = place


def build_optimizers(model: Decoder, config: TrainingConfig) -> Optimizers:
    """Muon for the matrices inside the blocks, AdamW for embeddings, head and vectors; or AdamW for all.

    Weight decay applies to matrices of the blocks only.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    matrices = [p for name, p in model.blocks.named_parameters() if p.ndim == 2]
    in_matrices = set(matrices)
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    in_tables = set(tables)
    rest = [p for p in model.parameters() if p not in in_matrices and p not in in_tables]
    rate = config.learning_rate
    small_groups = [
        {"params": tables, "lr": rate * config.embedding_rate, "weight_decay": 0.0},
        {"params": rest, "lr": rate * config.head_rate, "weight_decay": 0.0},
    ]
    members: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        parts: dict[Tensor, Sequence[int]] = {
            m.weight: m.parts for m in model.blocks.modules() if isinstance(m, Linear)
        }
        members.append(Muon(matrices, lr=rate, momentum=0.95, weight_decay=config.weight_decay, parts=parts))
    else:
        small_groups.append({"params": matrices, "lr": rate, "weight_decay": config.weight_decay})
    small_groups = [group for group in small_groups if group["params"]]
    members.append(torch.optim.AdamW(small_groups, betas=config.adam_betas, eps=1e-10, fused=True))
    for member in members:
        for group in member.param_groups:
            group["peak_lr"] = group["lr"]
    return Optimizers(members, names)

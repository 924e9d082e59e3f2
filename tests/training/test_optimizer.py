"""Every parameter has one optimizer, one rate, and a state that can be stored."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.training.config import TrainingConfig, load_recipe
from rhapsode.training.muon import Muon
from rhapsode.training.optimizer import Optimizers, build_optimizers

SIZES = {"vocab_size": 259, "width": 16, "num_layers": 2, "num_heads": 2, "seq_len": 8}


def make_model(recipe: str, seed: int = 0) -> Decoder:
    buckets = {"hashed_ngrams": {"num_buckets": 32}}
    model = load_recipe(recipe, {"model": {**SIZES, **buckets}}).model
    return build_decoder(ModelConfig.model_validate(dict(model)), seed)


def step(model: Decoder, optimizers: Optimizers, seed: int) -> None:
    ids = torch.randint(259, (2, 9), generator=torch.Generator().manual_seed(seed))
    model.loss(ids[:, :-1], ids[:, 1:]).mean().backward()
    for member in optimizers.members:
        member.step()
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_every_parameter_is_in_one_group(recipe: str, optimizer: str) -> None:
    model = make_model(recipe)
    config = TrainingConfig.model_validate({"optimizer": optimizer, "weight_decay": 0.1})
    optimizers = build_optimizers(model, config)
    grouped = [parameter for group in optimizers.groups() for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())
    matrices = {p for p in model.blocks.parameters() if p.ndim == 2}
    for group in optimizers.groups():
        inside = [parameter in matrices for parameter in group["params"]]
        assert len(set(inside)) == 1, "matrices of the blocks share no group with anything else"
        assert group["weight_decay"] == (0.1 if inside[0] else 0.0)
    owners = {type(m) for m in optimizers.members if any(p in matrices for g in m.param_groups for p in g["params"])}
    assert owners == {Muon if optimizer == "muon" else torch.optim.AdamW}


@pytest.mark.parametrize("recipe", ["gpt", "rhapsode"])
def test_rates_are_shares_of_their_peaks(recipe: str) -> None:
    model = make_model(recipe)
    config = TrainingConfig(learning_rate=0.1, embedding_rate=3.0, head_rate=0.5)
    optimizers = build_optimizers(model, config)
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = {p for p in model.blocks.parameters() if p.ndim == 2}
    for fraction, momentum in ((1.0, 0.85), (0.25, 0.9), (0.0, 0.95)):
        optimizers.set_rate(fraction, momentum)
        for group in optimizers.groups():
            first = group["params"][0]
            peak = 0.1 if first in matrices else 0.3 if first in tables else 0.05
            assert group["lr"] == pytest.approx(fraction * peak)
            assert group.get("momentum", momentum) == momentum


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_state_that_was_stored_goes_on_the_same(optimizer: str) -> None:
    config = TrainingConfig.model_validate({"optimizer": optimizer, "learning_rate": 0.01})
    first = make_model("rhapsode")
    optimizers = build_optimizers(first, config)
    for seed in range(3):
        step(first, optimizers, seed)
    second = make_model("rhapsode", seed=1)
    second.load_state_dict(first.state_dict())
    others = build_optimizers(second, config)
    stored = {name: value.clone() for name, value in optimizers.state_tensors().items()}
    names = {name for name, _ in first.named_parameters()}
    assert {name.removeprefix("optimizer.").rpartition(".")[0] for name in stored} == names
    others.load_state_tensors(stored)
    for seed in range(3, 6):
        step(first, optimizers, seed)
        step(second, others, seed)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def reached(make: Any, target: Tensor) -> float:
    weight = nn.Parameter(torch.zeros_like(target))
    optimizer = make([weight])
    for _ in range(60):
        loss = ((weight - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def test_muon_comes_closer_and_leaves_alone_what_has_no_gradient() -> None:
    target = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    start = float((target**2).sum())
    assert reached(lambda p: Muon(p, lr=0.1, momentum=0.9, weight_decay=0.0), target) < 0.1 * start
    untouched = nn.Parameter(target.clone())
    Muon([untouched], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.equal(untouched, target)

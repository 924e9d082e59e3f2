"""What a run will be, before anything is spent, is what it is."""

from pathlib import Path

import pytest
import torch

from rhapsode import api
from rhapsode.config import merge
from rhapsode.errors import UserError
from rhapsode.models.budget import count_parameters
from rhapsode.training.config import load_recipe, recipe_names
from rhapsode.training.plan import choose_params, estimate_memory, make_plan, matrix_speed, tokenizer_cap
from tiny_runs import SETTINGS, train_tiny


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_plan_is_the_run(source: Path, out: Path, recipe: str) -> None:
    settings = merge(SETTINGS, {"training": {"steps": 3}, "tokenizer": {"max_vocab_size": 700}})
    plan = api.plan(str(source), recipe=recipe, settings=settings)
    result = train_tiny(source, out, recipe=recipe, settings=settings)
    assert (plan.parameters, plan.tokens, plan.steps) == (result.parameters, result.tokens, result.steps)
    assert plan.model.vocab_size == result.vocab_size == 259
    assert plan.seconds == pytest.approx(plan.tokens / plan.tokens_per_s)


def test_a_plan_for_a_tokenizer_or_a_run_that_exists(source: Path, out: Path) -> None:
    train_tiny(source, out, settings={"tokenizer": {"kind": "chars"}, "params": 65_000, "training": {"steps": 1}})
    plan = api.plan(str(source), tokenizer=out / "tokenizer.json", params="65k", settings={"model": {"seq_len": 16}})
    assert plan.model.vocab_size == 260
    assert plan.parameters == api.load(out).decoder.num_parameters()
    assert api.plan(str(source), init=out).model == api.load(out).recipe.model


def test_sizes_follow_text_and_budget() -> None:
    small, large = (load_recipe("rhapsode", {"training": {"steps": steps}}) for steps in (10_000, 40_000))
    assert choose_params(small, 10**9) < choose_params(large, 10**9)
    # a short text caps them.
    assert choose_params(large, 10**6) <= 4 * 10**6 * 1.5
    assert choose_params(large, 100) == 600_000
    minute, hour = (load_recipe("rhapsode", {"training": {"minutes": minutes}}) for minutes in (1, 60))
    assert choose_params(minute, 10**9) < choose_params(hour, 10**9)
    assert choose_params(load_recipe("rhapsode", {"params": 12_345}), 100) == 12_345


def test_the_cap_of_a_vocabulary() -> None:
    def cap(**settings: object) -> int | None:
        return tokenizer_cap(load_recipe("gpt", dict(settings)), 10**6).max_vocab_size

    free = cap()
    assert free is not None
    assert 259 < free < 5000
    assert cap(tokenizer={"max_vocab_size": 600}) == 600
    assert cap(model={"vocab_size": 700}) == 700
    assert cap(tokenizer={"kind": "chars"}) is None
    with pytest.raises(UserError, match=r"^model\.vocab_size must be at least 259 \(3 specials and 256 bytes\); "):
        cap(model={"vocab_size": 100})


def test_memory_counts_weights_activations_and_logits() -> None:
    recipe = load_recipe("gpt", {"params": 1_000_000, "training": {"steps": 1}})
    plan = make_plan(recipe, 1_000_000, 1000, 10**6, torch.float32, compiled=False)
    parameters = count_parameters(plan.model)
    full = estimate_memory(plan.model, parameters, recipe.training)
    assert full == plan.memory_bytes > 16 * parameters
    chunked = recipe.training.model_copy(update={"loss_chunk_size": 10})
    rows = recipe.training.batch_size * plan.model.seq_len
    assert full - estimate_memory(plan.model, parameters, chunked) == (rows - 10) * 1000 * 12


def test_the_speed_is_measured_once() -> None:
    assert matrix_speed(torch.float32) == matrix_speed(torch.float32) > 1e8

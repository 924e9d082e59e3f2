"""A parameter budget is kept exactly, and one that cannot be kept says what can."""

import math
import random
import re
from typing import Any

import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.models.budget import MIN_FILL, choose_vocab_size, count_parameters, solve_sizes
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder
from rhapsode.training.config import load_recipe, recipe_names


def recipe_model(name: str, **sizes: Any) -> ModelConfig:
    return load_recipe(name, {"model": sizes}).model


def random_budgets(seed: int, count: int) -> list[tuple[int, int]]:
    """Budgets from 10 thousand to 300 million and vocabularies up to 50 thousand, each even on a log scale."""
    rng = random.Random(seed)
    return [
        (round(math.exp(rng.uniform(math.log(1e4), math.log(3e8)))), round(math.exp(rng.uniform(5.56, math.log(5e4)))))
        for _ in range(count)
    ]


def smallest_named(message: str) -> int:
    """Return the smallest budget that an error names."""
    found = re.match(r"--params must be at least (\d+) ", message)
    assert found, message
    return int(found[1])


def check_budget(recipe: str, params: int, vocab_size: int) -> None:
    model = recipe_model(recipe)
    try:
        solved = solve_sizes(model, params, vocab_size)
    except UserError as error:
        assert str(error).endswith(f" for this recipe and a vocabulary of {vocab_size}; got {params}.")  # noqa: PT017
        smallest = smallest_named(str(error))
        assert params < smallest
        params = smallest
        solved = solve_sizes(model, params, vocab_size)
        assert count_parameters(solved) == sum(p.numel() for p in Decoder(solved).parameters())
    used = count_parameters(solved)
    assert MIN_FILL * params <= used <= params
    assert solved.vocab_size == vocab_size
    assert None not in (solved.width, solved.num_layers, solved.num_heads)


def test_random_budgets_are_kept(recipe: str) -> None:
    for params, vocab_size in random_budgets(seed=0, count=10):
        check_budget(recipe, params, vocab_size)


@pytest.mark.slow
def test_many_random_budgets_are_kept(recipe: str) -> None:
    for params, vocab_size in random_budgets(seed=1, count=40):
        check_budget(recipe, params, vocab_size)


@pytest.fixture(params=recipe_names())
def recipe(request: pytest.FixtureRequest) -> str:
    """Each shipped recipe."""
    name: str = request.param
    return name


def test_counting_allocates_nothing_and_is_exact(recipe: str) -> None:
    for params, vocab_size in ((100_000, 300), (3_000_000, 2000)):
        solved = solve_sizes(recipe_model(recipe), params, vocab_size)
        assert count_parameters(solved) == Decoder(solved).num_parameters()
    for num_layers in (5, 6, 7, 8, 20):
        deep = recipe_model(recipe, mix="sliding sliding attention", num_layers=num_layers, width=16, num_heads=2)
        sized = solve_sizes(deep, 300_000, 300)
        with torch.device("meta"):
            assert count_parameters(sized) == Decoder(sized).num_parameters()
    huge = recipe_model("gpt", vocab_size=10**9, width=1 << 16, num_layers=2, num_heads=64)
    assert count_parameters(huge) > 6e13


def test_sizes_that_are_given_win(recipe: str) -> None:
    given = {"width": 48, "num_layers": 3, "num_heads": 4}
    for chosen in ({"width": 48}, {"num_layers": 3}, {"width": 48, "num_layers": 3}, given):
        solved = solve_sizes(recipe_model(recipe, **chosen), 400_000, 500)
        assert {name: getattr(solved, name) for name in chosen} == chosen
    # nothing is left to choose: the budget is not looked at.
    every = {**given, "hashed_ngrams": {"num_buckets": 77}}
    for params in (1, 10**12):
        solved = solve_sizes(recipe_model(recipe, **every), params, 500)
        assert (solved.width, solved.num_layers, solved.num_heads, solved.hashed_ngrams.num_buckets) == (48, 3, 4, 77)


def test_free_tables_take_what_a_given_body_leaves() -> None:
    model = recipe_model("rhapsode", width=64, num_layers=2)
    solved = solve_sizes(model, 1_000_000, 300)
    assert 0.99e6 < count_parameters(solved) <= 1e6
    assert solved.hashed_ngrams.num_buckets is not None


def test_tables_shrink_where_the_body_leaves_them_less() -> None:
    usual, small = (solve_sizes(recipe_model("hsmn"), params, 259) for params in (200_000, 60_000))
    tables = [solved.hashed_ngrams.num_buckets * solved.width for solved in (usual, small)]  # type: ignore[operator]
    assert tables[0] / 200_000 > 0.3 > tables[1] / 60_000
    assert 0.99 * 60_000 <= count_parameters(small) <= 60_000


def test_one_fixed_size_leaves_budgets_that_cannot_be_reached() -> None:
    model = recipe_model("gpt", width=512)
    with pytest.raises(
        UserError, match=r"^--params must be at least (\d+) for this recipe and a vocabulary of 300; got "
    ):
        solve_sizes(model, 100_000, 300)
    one, two = (count_parameters(solve_sizes(recipe_model("gpt", width=512, num_layers=n), 1, 300)) for n in (1, 2))
    with pytest.raises(UserError, match=r"^--params must be near a size that these settings can reach; got .* Leave"):
        solve_sizes(model, (one + two) // 2, 300)
    assert solve_sizes(model, two, 300).num_layers == 2


@pytest.mark.parametrize("params", [0, -5])
def test_a_budget_is_positive(params: int) -> None:
    with pytest.raises(UserError, match=rf"^--params must be positive; got {params}\. Try 5M\.$"):
        solve_sizes(recipe_model("gpt"), params, 300)


def test_heads_fit_key_value_heads() -> None:
    for chosen in ({"attention": {"num_kv_heads": 3, "head_dim": 16}}, {"num_heads": 6}, {"num_heads": 15}):
        for params in (3_000_000, 60_000, 20_000):
            model = recipe_model("gpt", **chosen)
            try:
                solved = solve_sizes(model, params, 300)
            except UserError as error:
                params = smallest_named(str(error))
                solved = solve_sizes(model, params, 300)
            assert solved.width is not None
            assert solved.num_heads is not None
            assert solved.num_heads % 3 == 0
            assert solved.width % (2 * solved.num_heads) == 0
            assert MIN_FILL * params <= count_parameters(solved) <= params
    with pytest.raises(
        UserError, match=r"^model\.attention\.num_kv_heads must divide a number of heads that fits .*; got 7"
    ):
        solve_sizes(recipe_model("gpt", width=32, attention={"num_kv_heads": 7}), 3_000_000, 300)


def test_larger_budgets_get_larger_bodies(recipe: str) -> None:
    bodies = []
    for params in (200_000, 2_000_000, 20_000_000):
        solved = solve_sizes(recipe_model(recipe), params, 1000)
        assert solved.width is not None
        assert solved.num_layers is not None
        bodies.append(solved.num_layers * solved.width**2)
    assert bodies == sorted(bodies)
    assert bodies[2] > 20 * bodies[0]


def test_a_vocabulary_takes_a_fixed_share(recipe: str) -> None:
    model = recipe_model(recipe)
    sizes = [choose_vocab_size(model, params, 259) for params in (50_000, 1_000_000, 10_000_000, 100_000_000)]
    assert sizes == sorted(sizes)
    assert choose_vocab_size(model, 1000, 259) == 259
    matrices = 1 if model.predict == "tied" else 2
    for params in (10_000_000, 100_000_000):
        vocab_size = choose_vocab_size(model, params, 259)
        solved = solve_sizes(model, params, vocab_size)
        assert solved.width is not None
        # the width is not known before the vocabulary; the usual shape stands in for it.
        assert 0.1 < matrices * vocab_size * solved.width / params < 0.35


def test_a_given_width_decides_the_vocabulary() -> None:
    assert choose_vocab_size(recipe_model("gpt", width=100), 1_000_000, 259) == 2000
    assert choose_vocab_size(recipe_model("rhapsode", width=100), 1_000_000, 259) == 1000

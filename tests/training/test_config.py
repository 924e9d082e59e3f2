"""Recipes and the settings of training."""

from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.training.config import TrainingConfig, load_recipe, recipe_names, recipe_summary


def test_one_budget_at_most() -> None:
    assert TrainingConfig().minutes is None
    for name in ("minutes", "tokens", "steps", "epochs"):
        assert getattr(TrainingConfig.model_validate({name: 2}), name) == 2
    with pytest.raises(UserError, match=r"^training must have one budget; got minutes and epochs\. Keep one of the"):
        load_recipe("gpt", {"training": {"minutes": 1, "epochs": 2}})


@pytest.mark.parametrize("name", ["minutes", "tokens", "steps", "epochs"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_is_positive(name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"^training\.{name} must be greater than .*; got {value}\.$"):
        load_recipe("gpt", {"training": {name: value}})


def test_shipped_recipes_load_and_say_what_they_are() -> None:
    assert {"gpt", "rhapsode"} <= set(recipe_names())
    for name in recipe_names():
        assert load_recipe(name).name == name
        summary = recipe_summary(name)
        assert summary.endswith((".", ":", ").")), summary
        assert not summary.startswith("#")


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('params = 70000\n[model]\nembed = "table"\n[training]\nsteps = 3\n')
    recipe = load_recipe(str(path), {"training": {"seed": 7}})
    assert (recipe.name, recipe.params, recipe.model.embed) == ("custom", 70000, "table")
    assert (recipe.training.steps, recipe.training.seed) == (3, 7)


def test_what_is_on_top_wins() -> None:
    assert load_recipe("gpt").training.learning_rate != 0.5
    assert load_recipe("gpt", {"training": {"learning_rate": 0.5}}).training.learning_rate == 0.5
    assert load_recipe("gpt", {"training": {"learning_rate": 0.5}}).training.optimizer == "adamw"


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--recipe must be one of gpt, .*; got 'rapsode'\. Did you mean 'rhapsode'"):
        load_recipe("rapsode")
    with pytest.raises(UserError, match=r"got 'learnin_rate'\. Did you mean 'learning_rate'\?"):
        load_recipe("gpt", {"training": {"learnin_rate": 1}})
    with pytest.raises(UserError, match=r"^the setting modle must be one of .*; got 'modle'\. Did you mean 'model'\?"):
        load_recipe("gpt", {"modle": {}})
    with pytest.raises(UserError, match=r"nowhere\.toml must be a readable file"):
        load_recipe(str(tmp_path / "nowhere.toml"))

"""One vocabulary size from the budget to the tokenizer, the head and the saved run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rhapsode import api
from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import RunFolder
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.text.prepare import prepare
from rhapsode.text.split import open_sources
from rhapsode.text.tokenizer import load_tokenizer, train_tokenizer
from rhapsode.training.config import load_recipe, recipe_names
from rhapsode.training.plan import tokenizer_cap
from rhapsode.training.run import Observer
from tiny_runs import make_words, train_tiny

NGRAM: dict[str, Any] = {"params": 70_000, "tokenizer": {"kind": "ngram"}, "training": {"steps": 1}}


def assert_one_size(run: Path, size: int) -> None:
    model = api.load(run)
    assert model.recipe.model.vocab_size == model.tokenizer.vocab_size == size
    logits, _ = model.decoder(torch.tensor([[1, 40, size - 1]]))
    assert logits.shape == (1, 3, size)
    assert load_tokenizer(RunFolder(run).tokenizer).vocab_size == size


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_has_as_many_ids_as_its_cap_or_what_was_learnt(source: Path, out: Path, recipe: str) -> None:
    said: list[str] = []
    capped = {**NGRAM, "tokenizer": {"kind": "ngram", "max_vocab_size": 300}}
    observer = Observer(say=said.append)
    result = train_tiny(source, out, recipe=recipe, settings=capped, observer=observer)
    assert result.vocab_size == 300
    assert_one_size(out, 300)
    assert said[1:4] == [
        "ngram tokenizer: base ids 259, cap 300, remaining capacity 41",
        "vocab_size capped at 300",
        "learnt 41 tokens, final vocab_size 300",
    ]


def test_fewer_ids_than_the_budget_affords(source: Path, out: Path) -> None:
    said: list[str] = []
    settings = {**NGRAM, "params": 3_000_000}
    result = train_tiny(source, out, recipe="gpt", settings=settings, observer=Observer(say=said.append))
    cap = tokenizer_cap(load_recipe("gpt", settings), 3_000_000).max_vocab_size
    assert cap is not None
    assert 259 < result.vocab_size < cap
    assert f"vocabulary: {cap} ids in the budget, {result.vocab_size} learnt: sizes are solved again" in said
    assert not [line for line in said if "capped" in line]
    assert 0.9 * 3_000_000 <= result.parameters <= 3_000_000
    assert_one_size(out, result.vocab_size)


@pytest.mark.parametrize(("section", "name"), [("tokenizer", "max_vocab_size"), ("model", "vocab_size")])
def test_what_is_larger_than_a_cap_is_refused(source: Path, tmp_path: Path, section: str, name: str) -> None:
    tokenizer = train_tokenizer([make_words(500)], TokenizerConfig(kind="ngram", max_vocab_size=320))
    tokenizer.save(tmp_path / "ngram.json")
    prepare(open_sources([str(source)], DataConfig()), tokenizer, tmp_path / "shards")
    settings: dict[str, Any] = {"params": 70_000, "training": {"steps": 1}, section: {name: 310}}
    message = rf"^{section}\.{name} must be at least the size of the tokenizer .*; got 310 and 320 ids"
    with pytest.raises(UserError, match=message):
        train_tiny(source, tmp_path / "run", tokenizer=tmp_path / "ngram.json", settings=settings)
    with pytest.raises(UserError, match=message):
        train_tiny(tmp_path / "shards", tmp_path / "run", settings=settings)
    with pytest.raises(UserError, match=message):
        api.plan(str(source), tokenizer=tmp_path / "ngram.json", settings=settings)


def test_a_tokenizer_that_changed_under_its_run(source: Path, out: Path) -> None:
    train_tiny(source, out, settings={**NGRAM, "tokenizer": {"kind": "ngram", "max_vocab_size": 300}})
    tokenizer = load_tokenizer(out / "tokenizer.json")
    tokenizer.grow([make_words(500, seed=9)], 320).save(out / "tokenizer.json")  # type: ignore[attr-defined]
    with pytest.raises(StateError, match=r"tokenizer\.json must be the tokenizer the run began with; it has changed"):
        api.train([], out=out, resume=True)
    with pytest.raises(StateError, match=r"tokenizer\.json must be the tokenizer of its run, but it has changed"):
        api.load(out)

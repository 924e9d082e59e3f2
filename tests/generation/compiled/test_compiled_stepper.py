"""The compiled pass against the decoder, for every kind of model that it computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.generation.compiled.stepper import CompiledStepper
from rhapsode.generation.compiled.weights import Weights, weights_of
from rhapsode.generation.stepper import Stepper
from rhapsode.models.decoder import Decoder

MakeModel = Callable[..., Decoder]
# as in the tests of `Stepper`: another order of sums of a few hundred terms.
TOLERANCE = 1e-4
MOST = 7
RECIPES: dict[str, dict[str, Any]] = {
    "attention": {},
    "sliding": {"mix": "sliding sliding attention", "num_layers": 3, "attention": {"window": 5}},
    "ngrams": {"hashed_ngrams": {"num_buckets": 64, "orders": (2, 3, 4), "dim": 8}},
    "gpt": {
        "embed": "table",
        "predict": "tied",
        "attention": {"positions": "learned", "qk_norm": False},
        "embed_norm": False,
        "feed_forward": "gelu",
        "norm": "layer",
        "logit_soft_cap": 0.0,
    },
    "groups": {"attention": {"num_kv_heads": 2}, "latent_steps": 2, "width": 40},
}


def weights(model: Decoder) -> Weights:
    found = weights_of(model)
    assert found is not None
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_reads_as_the_decoder_does_however_often_it_goes_back(make_model: MakeModel, recipe: str) -> None:
    model = make_model(seed=5, **RECIPES[recipe])
    rng = np.random.default_rng(0)
    text = rng.integers(2, 259, 120).tolist()
    plain, compiled = Stepper(model), CompiledStepper(model, weights(model), MOST)
    # more than is read at once.
    assert torch.allclose(plain.feed(text[:9]), compiled.feed(text[:9]), atol=TOLERANCE)
    done = 9
    while done < 110:
        count = int(rng.integers(1, MOST + 1))
        count = count if compiled.room is None else max(1, min(count, compiled.room))
        keep = int(rng.integers(1, count + 1))
        logits = compiled.read([*text[done : done + keep], *rng.integers(2, 259, count - keep).tolist()])
        compiled.rewind(keep)
        if compiled.room is None:
            compiled.probe(int(rng.integers(1, MOST + 1)))
        for place in range(keep):
            assert torch.allclose(plain.feed([text[done + place]]), logits[place], atol=TOLERANCE)
        done += keep
        assert plain.room == compiled.room


@pytest.mark.parametrize("recipe", ["attention", "sliding", "ngrams", "groups"])
def test_positions_read_together_have_the_very_logits_of_those_read_one_by_one(
    make_model: MakeModel, recipe: str
) -> None:
    model = make_model(seed=1, **RECIPES[recipe])
    text = np.random.default_rng(1).integers(2, 259, 90).tolist()
    one, several = (CompiledStepper(model, weights(model), MOST) for _ in range(2))
    one.feed(text[:3])
    several.feed(text[:3])
    for start in range(3, 87, MOST):
        logits = several.read(text[start : start + MOST])
        for place in range(MOST):
            assert torch.equal(one.feed([text[start + place]]), logits[place])


def test_it_goes_on_from_a_state_of_the_decoder(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        _, state = model(torch.tensor([[1, 50, 60, 70]]))
    compiled = CompiledStepper(model, weights(model), MOST, context=state)
    whole = Stepper(model)
    whole.feed([1, 50, 60, 70, 80])
    compiled.feed([80])
    for token in (90, 91, 92):
        assert torch.allclose(compiled.feed([token]), whole.feed([token]), atol=TOLERANCE)


def test_a_long_beginning_is_read_by_the_decoder(make_model: MakeModel) -> None:
    model = make_model(seq_len=256, **RECIPES["ngrams"])
    text = np.random.default_rng(0).integers(2, 259, 215).tolist()
    plain, compiled = Stepper(model), CompiledStepper(model, weights(model), MOST)
    assert torch.equal(plain.feed(text[:200]), compiled.feed(text[:200]))
    for start in range(200, 214, MOST):
        found = compiled.read(text[start : start + MOST])
        assert torch.allclose(found, plain.read(text[start : start + MOST]), atol=TOLERANCE)


def test_angles_are_those_of_the_position_far_from_the_beginning(make_model: MakeModel) -> None:
    model = make_model()
    plain, compiled = Stepper(model), CompiledStepper(model, weights(model), 64)
    text = np.random.default_rng(0).integers(2, 259, 2_500).tolist()
    plain.feed(text[:1])
    compiled.feed(text[:1])
    for start in range(1, 2_433, 64):
        found = compiled.read(text[start : start + 64])
        wanted = plain.read(text[start : start + 64])
        assert torch.allclose(found, wanted, atol=10 * TOLERANCE)


def test_weights_are_collected_once_and_again_when_they_change(make_model: MakeModel) -> None:
    model = make_model()
    first = weights(model)
    assert weights(model) is first
    with torch.no_grad():
        model.blocks[0].mixer.qkv.weight.add_(1.0)
    second = weights(model)
    assert second is not first
    assert second.qkv[0, 0, 0] == pytest.approx(first.qkv[0, 0, 0] + 1)


@pytest.mark.parametrize(
    "settings",
    [{"mix": "gla"}, {"predict": "factored"}, {"embed": "low_rank"}, {"embed": "hash"}],
)
def test_other_models_have_no_compiled_pass(make_model: MakeModel, settings: dict[str, Any]) -> None:
    assert weights_of(make_model(**settings)) is None
    half = make_model()
    assert weights_of(half) is not None
    assert weights_of(half.to(torch.bfloat16)) is None

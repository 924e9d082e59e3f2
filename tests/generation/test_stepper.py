import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError
from rhapsode.generation.layout import lay_out_for_decoding
from rhapsode.generation.stepper import Stepper
from rhapsode.memory.knn_memory import KNNMemory
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.models.decoder import Decoder
from rhapsode.models.gate import Gate, num_features
from rhapsode.models.mixture import Mixture

MakeModel = Callable[..., Decoder]
# a float32 pass in another order differs by rounding only: logits here are below 15, sums have a few hundred terms.
TOLERANCE = 1e-4
LEARNED = {"attention": {"positions": "learned"}}


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 259, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits_plain(model: Decoder, ids: list[int]) -> torch.Tensor:
    """The logits after `ids`, by one pass over all of them."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0][0, -1]


def window_plain(length: int, limit: int) -> int:
    """How many ids a model with learnt positions has read since its last start, after `length` single steps."""
    used = 0
    for _ in range(length):
        used = limit // 2 if used == limit else used + 1
    return used


@pytest.mark.parametrize("first", [1, 5, 16])
def test_steps_equal_one_pass_far_beyond_the_context(make_model: MakeModel, first: int) -> None:
    model, ids = make_model(), random_ids(50)
    stepper = Stepper(model)
    logits = [stepper.feed(ids[:first])] + [stepper.feed([token]) for token in ids[first:]]
    for length in range(first, 51):
        assert torch.allclose(logits[length - first], logits_plain(model, ids[:length]), atol=TOLERANCE)


@pytest.mark.parametrize("seq_len", [2, 7, 16])
def test_learnt_positions_start_again_from_the_last_half(make_model: MakeModel, seq_len: int) -> None:
    model, ids = make_model(seq_len=seq_len, **LEARNED), random_ids(60)
    stepper = Stepper(model)
    for length in range(1, 61):
        logits = stepper.feed([ids[length - 1]])
        used = window_plain(length, seq_len)
        assert torch.allclose(logits, logits_plain(model, ids[length - used : length]), atol=TOLERANCE)


def test_more_ids_at_once_than_learnt_positions_are_an_error(make_model: MakeModel) -> None:
    with pytest.raises(StateError, match=r"must fit model.seq_len with learned positions; got 17 ids for 16"):
        Stepper(make_model(**LEARNED)).feed(random_ids(17))


def test_a_model_set_to_bfloat16_decodes_in_float32_and_stays_as_it_was(make_model: MakeModel) -> None:
    model, ids = make_model(), random_ids(12)
    wanted = Stepper(model).feed(ids)
    model.compute_dtype = torch.bfloat16
    stepper = Stepper(model)
    assert torch.equal(stepper.feed(ids), wanted)
    assert model.compute_dtype == torch.bfloat16
    assert not torch.allclose(logits_plain(model, ids), wanted, atol=TOLERANCE)
    # no copy of the weights: what training changes, the next step sees.
    with torch.no_grad():
        model.head.linear.weight.zero_()
    assert stepper.feed([5]).abs().max() == 0


def test_the_layout_for_decoding_changes_no_value(make_model: MakeModel) -> None:
    for settings in ({}, {"predict": "tied"}, {"hashed_ngrams": {"num_buckets": 64, "dim": 8}}):
        model, ids = make_model(**settings), random_ids(12)
        laid_out = copy.deepcopy(model)
        lay_out_for_decoding(laid_out)
        assert laid_out.blocks[0].mixer.qkv.weight.stride() == (1, 96)
        for name, value in model.state_dict().items():
            assert torch.equal(laid_out.state_dict()[name], value)
        assert torch.allclose(Stepper(laid_out).feed(ids), Stepper(model).feed(ids), atol=TOLERANCE)


@pytest.mark.parametrize("settings", [{}, LEARNED])
@pytest.mark.parametrize("opens_at", [1, 99])
def test_memories_are_mixed_in_unless_the_gate_is_closed(
    make_model: MakeModel, settings: dict[str, object], opens_at: int
) -> None:
    model, ids = make_model(**settings), random_ids(10) * 3
    memories = [NgramMemory.empty(259, 4), KNNMemory(259, 32)]
    memories[0].learn(1, np.array(ids))
    gate = Gate("linear", (np.zeros((3, num_features(2))),), min_match_length=opens_at)
    mixture = Mixture(memories, gate)
    mixed, plain = Stepper(model, mixture), Stepper(model)
    for length in (12, *range(13, 31)):
        fed = ids[:12] if length == 12 else [ids[length - 1]]
        logits, own = mixed.feed(fed), plain.feed(fed)
        if opens_at == 99:
            assert torch.equal(logits, own)
        else:
            # a memory without items says nothing, whatever the vector.
            states = mixture.start(np.array(ids[:length]), np.ones((length, 32), dtype=np.float32))
            assert torch.allclose(logits, mixture.mix(own, states), atol=TOLERANCE)
            assert length == 30 or logits[ids[length]] > own.log_softmax(-1)[ids[length]]

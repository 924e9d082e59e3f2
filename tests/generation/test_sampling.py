import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.sampling import (
    NUM_NEVER_SAMPLED,
    apply_temperature,
    draw,
    filter_logits,
    keep_min_p,
    keep_top_p,
    penalize_seen,
    rank,
    sample,
)

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def softmax_plain(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def distribution_plain(logits: np.ndarray, config: GenerationConfig, seen: list[int]) -> np.ndarray:
    """Every filter as its paper states it, float64, over the whole vocabulary, in the documented order."""
    logits = logits.astype(np.float64).copy()
    for token in set(seen):
        logits[token] = (
            logits[token] / config.repetition_penalty
            if logits[token] > 0
            else logits[token] * config.repetition_penalty
        )
    logits[:NUM_NEVER_SAMPLED] = -np.inf
    logits = logits / config.temperature
    if config.top_k:
        keep = np.argsort(-logits, kind="stable")[: config.top_k]
        logits[np.setdiff1d(np.arange(logits.size), keep)] = -np.inf
    probabilities = softmax_plain(logits)
    if config.top_p < 1:
        total = 0.0
        for token in np.argsort(-probabilities, kind="stable"):
            if total >= config.top_p:
                logits[token] = -np.inf
            total += probabilities[token]
        probabilities = softmax_plain(logits)
    logits[probabilities < config.min_p * probabilities.max()] = -np.inf
    return softmax_plain(logits)


def distribution_of(logits: np.ndarray, config: GenerationConfig, seen: list[int]) -> np.ndarray:
    """What `sample` draws from, over the whole vocabulary."""
    row = torch.from_numpy(logits)
    if seen and config.repetition_penalty != 1:
        row = penalize_seen(row, torch.tensor(seen), config.repetition_penalty)
    kept, ids = filter_logits(row[NUM_NEVER_SAMPLED:], config)
    places = torch.arange(kept.shape[0]) if ids is None else ids
    result = np.zeros(logits.size)
    result[places.numpy() + NUM_NEVER_SAMPLED] = kept.double().softmax(-1).numpy()
    return result


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(3, 80),
    temperature=st.floats(0.1, 3.0),
    top_k=st.one_of(st.none(), st.integers(0, 100)),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 1.0),
    penalty=st.floats(0.3, 3.0),
    seen_count=st.integers(0, 10),
)
@example(seed=0, size=24, temperature=0.5, top_k=None, top_p=1 - 1e-16, min_p=0.0, penalty=1.0, seen_count=0)
def test_the_distribution_is_that_of_the_plain_filters_in_order(
    seed: int,
    size: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
    penalty: float,
    seen_count: int,
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(size) * 3).astype(np.float32)
    seen = rng.integers(0, size, seen_count).tolist()
    config = GenerationConfig(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    plain = distribution_plain(logits, config, seen)
    ours = distribution_of(logits, config, seen)
    if (plain > 0).sum() != (ours > 0).sum():
        # float32 may decide otherwise about a token that stands on a threshold: what we keep must then lie between the
        # plain sets of both thresholds moved by 1e-4, far above the error of a float32 sum of 80 probabilities.
        strict, loose = (
            distribution_plain(logits, config.model_copy(update={"top_p": p, "min_p": m}), seen) > 0
            for p, m in ((top_p - 1e-4, min_p * (1 + 1e-4)), (top_p + 1e-4, min_p * (1 - 1e-4)))
        )
        assert ((ours > 0) >= strict).all()
        assert ((ours > 0) <= loose).all()
    else:
        # temperature 0.1 scales the rounding of float32 logits (1e-6) to 1e-5.
        np.testing.assert_allclose(ours, plain, atol=5e-5)


def test_each_filter_alone_on_hand_made_probabilities() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    ranked, ids = rank(logits)
    assert ids.tolist() == [1, 3, 2, 0]
    assert torch.isfinite(keep_top_p(ranked, 0.4)).tolist() == [True, False, False, False]
    assert torch.isfinite(keep_top_p(ranked, 0.41)).tolist() == [True, True, False, False]
    assert torch.isfinite(keep_top_p(ranked, 0.95)).tolist() == [True, True, True, True]
    assert torch.isfinite(keep_min_p(logits, 0.6)).tolist() == [False, True, False, True]
    assert rank(logits, 2)[1].tolist() == [1, 3]
    assert rank(logits, 9)[1].tolist() == [1, 3, 2, 0]
    assert rank(torch.ones(5), 2)[1].shape == (2,)


def test_top_p_counts_only_what_top_k_left() -> None:
    # of all, the first holds 0.4 < 0.5; of the top two, 0.4 / 0.7 > 0.5.
    logits = np.log(np.array([1e-9, 1e-9, 0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    config = GenerationConfig(**{**OFF, "top_k": 2, "top_p": 0.5})
    assert (distribution_of(logits, config, []) > 0).sum() == 1


@pytest.mark.parametrize("penalty", [0.5, 1.7])
def test_the_penalty_makes_repeats_less_likely_whatever_the_sign(penalty: float) -> None:
    logits = torch.tensor([2.0, -2.0, 1.0, -1.0, 0.0])
    penalized = penalize_seen(logits, torch.tensor([0, 1, 1, 4]), penalty)
    assert torch.allclose(penalized, torch.tensor([2.0 / penalty, -2.0 * penalty, 1.0, -1.0, 0.0]))
    assert logits.tolist() == [2.0, -2.0, 1.0, -1.0, 0.0]


def test_filters_treat_rows_of_a_batch_alike() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    config = GenerationConfig(top_k=20, top_p=0.8, min_p=0.01)
    kept, ids = filter_logits(logits, config)
    assert ids is not None
    for row in range(3):
        alone, places = filter_logits(logits[row], config)
        assert places is not None
        assert torch.equal(kept[row], alone)
        assert torch.equal(ids[row], places)
    seen = torch.randint(50, (3, 4), generator=torch.Generator().manual_seed(2))
    together = penalize_seen(logits, seen, 2.0)
    assert all(torch.equal(together[row], penalize_seen(logits[row], seen[row], 2.0)) for row in range(3))


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.6, "top_k": 12}, {"top_p": 0.8}, {"min_p": 0.1, "repetition_penalty": 1.5}],
    ids=["pure", "top_k", "top_p", "min_p and penalty"],
)
def test_draws_follow_the_distribution(changes: dict[str, float]) -> None:
    """Pearson's statistic has k degrees of freedom; P(X >= k + 2 sqrt(k t) + 2 t) <= exp(-t) for chi-squared X.

    The bound is that of Laurent & Massart 2000, Annals of Statistics 28(5), lemma 1; t = 14 is one in a million.
    Classes expected fewer than ten times are merged, so that the statistic is close to chi-squared.
    """
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(40) * 0.7).astype(np.float32)
    seen = [5, 6, 7, 7]
    config = GenerationConfig(**{**OFF, **changes})
    expected = distribution_plain(logits, config, seen)
    generator = torch.Generator().manual_seed(4)
    row, seen_ids, n = torch.from_numpy(logits), torch.tensor(seen), 6000
    with torch.inference_mode():
        counts = np.bincount([sample(row, config, generator, seen_ids) for _ in range(n)], minlength=40)
    assert counts[expected == 0].sum() == 0
    large = expected * n >= 10
    observed = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum()) * n
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    k, t = len(wanted) - 1, 14.0
    assert k > 3
    assert ((observed - wanted) ** 2 / wanted).sum() < k + 2 * math.sqrt(k * t) + 2 * t


def test_draw_never_takes_what_was_dropped() -> None:
    logits = torch.full((64,), -math.inf)
    logits[[7, 30]] = 0.0
    generator = torch.Generator().manual_seed(0)
    assert {draw(logits, generator) for _ in range(200)} == {7, 30}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-4])
def test_padding_and_bos_are_never_sampled(temperature: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0))
    logits[:2] = 50.0
    generator = torch.Generator().manual_seed(0)
    config = GenerationConfig(**{**OFF, "temperature": temperature})
    drawn = {sample(logits, config, generator) for _ in range(300)}
    assert min(drawn) >= 2
    if temperature < 1:
        assert drawn == {int(logits[2:].argmax()) + 2}


def test_greedy_takes_the_best_penalized_logit_and_no_random_number() -> None:
    logits = torch.tensor([9.0, 9.0, 1.0, 3.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    config = GenerationConfig(temperature=0, repetition_penalty=2.0)
    assert sample(logits, config, generator) == 3
    assert sample(logits, config, generator, torch.tensor([3])) == 4
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "changes", [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 5, "min_p": 0.1}]
)
def test_logits_that_are_not_finite_are_an_error(bad: float, changes: dict[str, float]) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0))
    logits[17] = bad
    with pytest.raises(StateError, match=r"^the model's logits must be finite; got .*diverged"):
        sample(logits, GenerationConfig(**{**OFF, **changes}), torch.Generator())


def test_temperature_divides() -> None:
    logits = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(apply_temperature(logits, 0.7).softmax(-1), (logits / 0.7).softmax(-1), atol=1e-6)
    assert torch.isfinite(apply_temperature(logits * 1e30, 1e-4).softmax(-1)).all()

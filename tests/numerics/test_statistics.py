"""Intervals hold what they promise, on series that are correlated as text is."""

import numpy as np
import pytest

from rhapsode.ops.statistics import ratio_interval


def correlated_text(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw bits and bytes of `count` tokens; returns them and the ratio of their expectations.

    Bits follow their neighbours (autoregression with 0.8, as easy and hard passages do) and grow with the token's
    bytes.
    """
    bytes_each = rng.integers(1, 8, count).astype(np.float64)
    noise = np.empty(count)
    state = rng.normal() / np.sqrt(1 - 0.8**2)
    for i, shock in enumerate(rng.normal(size=count)):
        state = 0.8 * state + shock
        noise[i] = state
    return 2.0 * bytes_each + 5.0 + noise, bytes_each, (2.0 * 4.0 + 5.0) / 4.0


def test_the_truth_is_inside_about_95_times_in_100() -> None:
    """Over 400 series the number of hits is binomial with 0.95: a deviation of 0.011, so four of them each way.

    Blocks of 40 tokens are not quite independent: what one block's end has in common with the next one's beginning
    makes the interval narrower by a few percent, which costs about a hit in a hundred.
    """
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        tops, bottoms, truth = correlated_text(rng, 4000)
        low, high = ratio_interval(tops, bottoms)
        hits += low <= truth <= high
    assert 0.95 - 0.01 - 4 * 0.011 < hits / 400 < 0.95 + 4 * 0.011


def test_single_tokens_would_promise_too_much() -> None:
    """The control: with a block for each token, correlation goes unseen and the truth is often outside.

    An autoregression with 0.8 has (1 + 0.8) / (1 - 0.8) = 9 times the variance of the mean of independent values, in
    the part of the variance that is noise: the promise falls far below 0.95.
    """
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        tops, bottoms, truth = correlated_text(rng, 2000)
        low, high = ratio_interval(tops, bottoms, num_blocks=2000)
        hits += low <= truth <= high
    assert hits < 85


def test_by_hand() -> None:
    # blocks (1 + 2, 3 + 6): ratio 12 / 4; residuals 3 - 6 and 9 - 6.
    low, high = ratio_interval(np.array([1.0, 2.0, 3.0, 6.0]), np.ones(4), num_blocks=2)
    deviation = np.sqrt(18.0 / 2) / 2.0
    assert (low, high) == pytest.approx((3 - 1.959964 * deviation, 3 + 1.959964 * deviation))


def test_a_constant_ratio_has_no_width() -> None:
    bottoms = np.random.default_rng(0).uniform(1, 2, 500)
    assert ratio_interval(1.5 * bottoms, bottoms) == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize("count", [2, 3, 99, 100, 101, 257])
def test_every_item_counts_whatever_the_number_of_blocks(count: int) -> None:
    rng = np.random.default_rng(count)
    tops, bottoms = rng.uniform(1, 2, count), rng.uniform(1, 2, count)
    low, high = ratio_interval(tops, bottoms)
    assert (low + high) / 2 == pytest.approx(tops.sum() / bottoms.sum())
    assert low < high


def test_one_item_has_no_interval() -> None:
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 items; got 1\.$"):
        ratio_interval(np.ones(1), np.ones(1))

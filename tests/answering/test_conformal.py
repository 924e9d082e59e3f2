"""The threshold and what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.answering.conformal import conformal_threshold


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.5, 0.2, 0.1, 0.05, 0.02]))
def test_it_is_the_smallest_score_that_keeps_the_promise(scores: list[float], error_rate: float) -> None:
    threshold = conformal_threshold(scores, error_rate)
    if len(scores) < 1 / error_rate:
        assert threshold is None
        return
    assert threshold in scores
    # with the new question among them, all orders alike: it exceeds the threshold in at most a of them.
    assert sum(score > threshold for score in scores) + 1 <= error_rate * (len(scores) + 1) + 1
    allowed = int(np.floor(error_rate * (len(scores) + 1) + 1e-9))
    lower = [score for score in scores if score < threshold]
    if lower:
        assert sum(score > max(lower) for score in scores) >= allowed


def test_the_promise_holds_on_average() -> None:
    rng = np.random.default_rng(0)
    error_rate, count, trials = 0.05, 59, 4_000
    exceeded = 0
    for _ in range(trials):
        scores = rng.beta(0.5, 3, size=count + 1)
        threshold = conformal_threshold(scores[:-1], error_rate)
        assert threshold is not None
        exceeded += scores[-1] > threshold
    # P = floor(a (N + 1)) / (N + 1) = 3 / 60 for continuous scores; four standard errors of a proportion.
    assert abs(exceeded / trials - 0.05) < 4 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1, 2.0])
def test_an_error_rate_is_a_proportion(error_rate: float) -> None:
    with pytest.raises(ValueError, match="error_rate must lie between 0 and 1; got"):
        conformal_threshold([0.5] * 100, error_rate)


@pytest.mark.parametrize(("error_rate", "least"), [(0.01, 100), (0.02, 50), (0.1, 10)])
def test_fewer_than_one_over_a_promise_nothing(error_rate: float, least: int) -> None:
    assert conformal_threshold([0.5] * (least - 1), error_rate) is None
    assert conformal_threshold([0.5] * least, error_rate) == 0.5

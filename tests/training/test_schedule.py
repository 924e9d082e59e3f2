"""Budgets end where they say, and rates follow them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.training.config import TrainingConfig
from rhapsode.training.schedule import Budget, build_budget, learning_rate_fraction, muon_momentum


def test_budgets_become_steps_or_seconds() -> None:
    assert build_budget(TrainingConfig(steps=7), 64, 1000) == Budget(7, None)
    assert build_budget(TrainingConfig(tokens=640), 64, 1000) == Budget(10, None)
    assert build_budget(TrainingConfig(tokens=600), 64, 1000) == Budget(9, None)
    assert build_budget(TrainingConfig(tokens=1), 64, 1000) == Budget(1, None)
    assert build_budget(TrainingConfig(epochs=2.5), 64, 1024) == Budget(40, None)
    assert build_budget(TrainingConfig(minutes=0.5), 64, 1000) == Budget(None, 30.0)
    assert build_budget(TrainingConfig(), 64, 1000) == Budget(None, 180.0)


@given(st.integers(1, 10**6), st.data())
def test_a_budget_in_steps_is_spent_at_its_last_step(steps: int, data: st.DataObject) -> None:
    budget = Budget(steps, None)
    assert budget.progress(steps, 0.0) == 1
    step = data.draw(st.integers(0, steps - 1))
    assert 0 <= budget.progress(step, 1e9) < 1


def test_a_budget_in_seconds_knows_no_steps() -> None:
    assert Budget(None, 60.0).progress(10**9, 15.0) == 0.25


@given(
    st.floats(0, 1),
    st.integers(0, 10_000),
    st.integers(0, 100),
    st.floats(0, 1),
)
def test_rates_stay_between_zero_and_the_peak(progress: float, step: int, warmup: int, cooldown: float) -> None:
    config = TrainingConfig(warmup_steps=warmup, cooldown=cooldown)
    assert 0 <= learning_rate_fraction(progress, step, config) <= 1


def test_rates_rise_hold_and_fall_to_zero() -> None:
    config = TrainingConfig(warmup_steps=10, cooldown=0.5)
    rates = [learning_rate_fraction(step / 100, step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[9:51]) == {1.0}
    assert rates[50:] == pytest.approx([1 - step / 50 for step in range(51)])
    assert learning_rate_fraction(0.3, 0, TrainingConfig(warmup_steps=0, cooldown=0)) == 1.0
    assert learning_rate_fraction(1.0, 0, TrainingConfig(warmup_steps=0, cooldown=0)) == 1.0


def test_momentum_rises_over_the_first_hundred_steps() -> None:
    assert [muon_momentum(step) for step in (0, 50, 100, 10**6)] == pytest.approx([0.85, 0.9, 0.95, 0.95])

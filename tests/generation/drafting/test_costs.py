import numpy as np
import pytest

from rhapsode.generation.drafting.costs import CostModel


def true_cost(size: int, slope: float) -> float:
    return 1e-3 if size == 1 else 1e-3 * (1.1 + slope * size)


def observed(slope: float, start: float) -> CostModel:
    """A model that was calibrated `start` times too high, and has seen 400 passes since."""
    costs = CostModel()
    costs.calibrate(lambda size: true_cost(size, slope * start), 16)
    rng = np.random.default_rng(0)
    for _ in range(400):
        size = int(rng.integers(1, 25))
        # one pass in five is interrupted by something that takes ten times as long.
        noise = (1 + 0.05 * rng.random()) * (10 if rng.random() < 0.2 else 1)
        costs.observe(size, true_cost(size, slope) * noise)
    return costs


@pytest.mark.parametrize("slope", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("start", [0.7, 1.0, 1.5])
def test_costs_are_learnt_through_noise(slope: float, start: float) -> None:
    found = observed(slope, start).costs(20)
    assert found[0] == 1
    assert (np.diff(found) >= 0).all()
    assert found[1:] == pytest.approx(1.1 + slope * np.arange(2, 21), rel=0.15)


def test_calibration_comes_first_and_a_single_position_is_asked_for_now_and_then() -> None:
    costs = CostModel()
    assert not costs.is_calibrated
    sizes: list[int] = []

    def measure(count: int) -> float:
        sizes.append(count)
        return 1e-3 * (1 + count) / (1 if len(sizes) > 4 else 0.1)

    costs.calibrate(measure, 12, rounds=2)
    assert costs.is_calibrated
    # the slow first round does not count.
    assert costs.costs(12)[-1] == pytest.approx(13 / 2)
    assert sorted(set(sizes)) == [1, 2, 8, 12]
    for _ in range(50):
        assert not costs.wants_one
        costs.observe(3, 1e-3)
    assert costs.wants_one
    costs.observe(1, 1e-3)
    assert not costs.wants_one

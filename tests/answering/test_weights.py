"""How much words count."""

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.answering.weights import PRIOR_ROWS, TermWeights


@given(st.integers(0, 10**6), st.data())
def test_weights_lie_between_zero_and_one_and_fall_with_frequency(rows: int, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    weights = TermWeights(rows, {"low": low, "high": high}.__getitem__)
    rare, frequent = weights.of(["low", "high"])
    assert 0 <= frequent.weight <= rare.weight <= 1
    assert rare.held == (low > 0)


def test_by_hand() -> None:
    weights = TermWeights(400, {"zorblatt": 0, "lisbon": 10, "name": 0}.__getitem__)
    unknown, known, common = weights.of(["zorblatt", "lisbon", "name"])
    assert (unknown.weight, unknown.held, unknown.common) == (1.0, False, False)
    assert known.weight == pytest.approx(log((400 + PRIOR_ROWS + 1) / 10.5) / log((400 + PRIOR_ROWS + 1) / 0.5))
    assert (common.held, common.common) == (False, True)
    assert common.weight < 1


def test_a_row_that_is_held_out_is_not_counted() -> None:
    counts = {"lisbon": 1, "oslo": 1}
    lisbon, oslo = TermWeights(50, counts.__getitem__).of(["lisbon", "oslo"], frozenset(["lisbon"]))
    assert not lisbon.held
    assert oslo.held
    without = TermWeights(49, {"lisbon": 0, "oslo": 1}.__getitem__).of(["lisbon", "oslo"])
    assert (lisbon, oslo) == without

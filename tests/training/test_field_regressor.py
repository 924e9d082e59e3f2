"""The estimators: scikit-learn's own checks, what they learn, streams, and bad input."""

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine, make_friedman1
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.preprocessing import StandardScaler

from rhapsode import FieldClassifier, FieldRegressor
from rhapsode.errors import UserError
from rhapsode.training.field_scaling import LinearBase, Scaler


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FieldRegressor", "FieldClassifier"])
def test_it_passes_scikit_learns_checks(name: str) -> None:
    # in a process of its own: scikit-learn passes types on purpose that the checker of annotations would refuse first.
    lines = ["from sklearn.utils.estimator_checks import check_estimator", f"from rhapsode import {name}"]
    script = "; ".join([*lines, f"check_estimator({name}())"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_it_learns_what_a_line_cannot() -> None:
    X, y = make_friedman1(500, 5, noise=0.5, random_state=0)
    inside, outside, goals, truth = train_test_split(X, y, random_state=0)
    field = FieldRegressor(max_epochs=15, random_state=0).fit(inside, goals)
    assert field.score(outside, truth) > Ridge().fit(inside, goals).score(outside, truth) + 0.05
    summary = field.fit_summary()
    assert summary["start_error"] < summary["linear_error"]
    again = FieldRegressor(max_epochs=15, random_state=0).fit(inside, goals)
    assert np.array_equal(field.predict(outside), again.predict(outside))


def test_it_is_not_worse_than_ridge_where_a_line_is_right() -> None:
    X, y = load_diabetes(return_X_y=True)
    line = cross_val_score(Ridge(0.1), X, y, cv=3).mean()
    assert cross_val_score(FieldRegressor(max_epochs=5, random_state=0), X, y, cv=3).mean() > line - 0.04


def test_several_targets_keep_their_shape_and_scale() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = np.stack([1e6 * X[:, 0], 1e-6 * X[:, 1] + 3], 1)
    found = FieldRegressor(max_epochs=3, random_state=0).fit(X, y).predict(X)
    assert found.shape == y.shape
    assert (np.abs(found - y).mean(0) < 0.1 * y.std(0)).all()


def test_it_classifies() -> None:
    X, y = load_wine(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    inside, outside, goals, truth = train_test_split(X, names, random_state=0)
    field = FieldClassifier(max_epochs=5, random_state=0).fit(inside, goals)
    assert field.score(outside, truth) > 0.9
    assert np.allclose(field.predict_proba(outside).sum(1), 1)


def test_a_stream_scores_first_then_learns_and_follows_a_drift() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 3))
    sign = np.where(np.arange(1200) < 600, 1.0, -1.0)
    y = sign * X[:, 0] + np.sin(2 * X[:, 1])
    field = FieldRegressor(forgetting=0.98, warmup=100, max_epochs=5, random_state=0)
    errors = []
    for start in range(0, 1200, 20):
        part = slice(start, start + 20)
        if start:
            errors.append(float(((field.predict(X[part]) - y[part]) ** 2).mean()))
        field.partial_fit(X[part], y[part])
    # just after the turn it is wrong, and at the end it has followed.
    assert np.mean(errors[-10:]) < 0.35 * np.mean(errors[29:31])


def test_a_stream_may_start_with_one_sample_and_be_replayed() -> None:
    field = FieldRegressor(warmup=10, replay=30, relocate=True, max_epochs=2, random_state=0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x = rng.normal(size=(1, 2))
        field.partial_fit(x, x[:, 0])
    x = rng.normal(size=(50, 2))
    assert np.abs(field.predict(x) - x[:, 0]).mean() < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20.0)
    wrong = X.copy()
    wrong[3, 1] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        FieldRegressor().fit(wrong, y)
    field = FieldRegressor(max_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        field.predict(wrong)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        field.partial_fit(wrong, y)


def test_constant_columns_change_nothing_even_if_they_move_later() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    wide = np.column_stack([X, np.full(60, 1e12)])
    field = FieldRegressor(max_epochs=2, random_state=0).fit(wide, X[:, 0])
    moved = wide.copy()
    moved[:, 2] += 5e3
    assert np.array_equal(field.predict(wide), field.predict(moved))
    assert np.abs(field.predict(wide) - X[:, 0]).mean() < 0.2


def test_one_sample_and_constant_targets_are_remembered() -> None:
    field = FieldRegressor(random_state=0).fit([[1.0, 2.0]], [7.0])
    assert field.predict([[3.0, -2.0]]) == pytest.approx([7.0])
    field = FieldRegressor(max_epochs=2, random_state=0).fit(np.random.default_rng(0).normal(size=(30, 2)), np.ones(30))
    assert field.predict([[0.5, 9.0]]) == pytest.approx([1.0])


@pytest.mark.parametrize("init", ["kmeans", "random"])
def test_fewer_samples_than_units_is_fine(init: str) -> None:
    X = np.random.default_rng(0).normal(size=(15, 2))
    field = FieldRegressor(num_units=40, init=init, random_state=0).fit(X, X[:, 0])
    assert np.isfinite(field.predict(X)).all()


def test_very_large_and_very_small_numbers_are_scaled() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        field = FieldRegressor(max_epochs=2, random_state=0).fit(X * [1e200, 1e-200], X[:, 0] * 1e150)
    assert field.score(X * [1e200, 1e-200], X[:, 0] * 1e150) > 0.9


@pytest.mark.parametrize("gate", ["slab", "ball", "product"])
def test_inputs_far_outside_have_finite_predictions(gate: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    field = FieldRegressor(gate=gate, max_epochs=1, random_state=0).fit(X, X[:, 0] ** 2)
    assert np.isfinite(field.predict([[1e300, -1e300], [1e160, 0.0]])).all()
    classes = FieldClassifier(gate=gate, max_epochs=1, random_state=0).fit(X, X[:, 0] > 0)
    assert np.allclose(classes.predict_proba([[1e300, -1e300]]).sum(), 1)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_stream_keeps_its_number_of_targets(first: int, then: int) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    for field in (FieldRegressor(max_epochs=1).fit(X, y[:, :first]), FieldRegressor().partial_fit(X, y[:, :first])):
        with pytest.raises(UserError, match=rf"y must have {first} columns, as it had; got {then}. Use fit"):
            field.partial_fit(X, y[:, :then])
        assert field.predict(X).shape == (30, first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_units": 4, "num_active": 5}, r"field.num_active must be at most field.num_units; got 5 and 4"),
        ({"num_units": 0}, r"field.num_units must be"),
        ({"gate": "cube"}, r"field.gate must be"),
        ({"interpolation": "spline"}, r"field.interpolation must be"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive; got 0.0"),
        ({"max_epochs": -1}, r"max_epochs must be at least 0; got -1"),
        ({"solve_every": -1}, r"solve_every must be at least 0"),
        ({"batch_size": 0}, r"batch_size must be at least 1; got 0"),
        ({"weight_decay": -1.0}, r"weight_decay must be at least 0"),
        ({"validation": 1.0}, r"validation must lie between 0 and 1; got 1.0"),
        ({"patience": 0}, r"patience must be at least 1"),
        ({"online_rate": 1.5}, r"online_rate must lie in \[0, 1\]; got 1.5"),
        ({"forgetting": 0.0}, r"forgetting must be 'auto' or lie in \(0, 1\]; got 0.0"),
        ({"replay": -1}, r"replay must be at least 0"),
        ({"warmup": 0}, r"warmup must be at least 1"),
        ({"num_units": "many"}, r"num_units must be 'auto' or a whole number; got 'many'. The default is auto."),
        ({"num_active": None}, r"num_active must be 'auto' or a whole number; got None"),
        ({"num_units": 2.5}, r"field.num_units must be a valid integer"),
        ({"learning_rate": np.inf}, r"learning_rate must be a finite number; got inf. The default is 0.01."),
        ({"learning_rate": "fast"}, r"learning_rate must be a finite number; got 'fast'"),
        ({"forgetting": True}, r"forgetting must be 'auto' or lie in \(0, 1\]; got True"),
        ({"max_epochs": 1.5}, r"max_epochs must be a whole number; got 1.5"),
        ({"relocate": "no"}, r"relocate must be True or False; got 'no'"),
        ({"linear": 1}, r"linear must be True or False; got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(UserError, match=message):
        # by name, since the types of the constructor are checked in tests.
        FieldRegressor().set_params(**settings).fit(X, X[:, 0])


def test_classes_are_known_from_the_start_of_a_stream() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(UserError, match="classes must be given at the first call"):
        FieldClassifier().partial_fit(X, y)
    field = FieldClassifier(random_state=0, max_epochs=1).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(UserError, match="y must hold classes named before; got 2"):
        field.partial_fit(X, y + 1)
    with pytest.raises(UserError, match="classes must hold at least two classes; got 1 class"):
        FieldClassifier().partial_fit(X, np.zeros(30), classes=[0])
    with pytest.raises(UserError, match="y must hold at least two classes; got 1 class"):
        FieldClassifier().fit(X, np.zeros(30))


def test_the_scaler_is_scikit_learns() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3)) * [1, 100, 1e-3] + [0, 5, -2]
    found = Scaler(torch.tensor(X))
    assert np.allclose(found(torch.tensor(X)).numpy(), StandardScaler().fit_transform(X))
    assert np.allclose(found.invert(found(torch.tensor(X))).numpy(), X)
    # the distance between these two is past float64.
    far = torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64)
    assert torch.allclose(Scaler(far)(far), far.sign())


def test_a_block_of_many_samples_is_learnt_as_if_it_came_in_parts() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(3300, 5)))
    y = x[:, :1] - x[:, 1:2] + 0.1 * torch.tensor(rng.normal(size=(3300, 1)))
    speeds = (0.9999, 0.97)
    whole, parts = (LinearBase(x[:300], y[:300], speeds) for _ in range(2))
    for start in range(300, 3300, 1000):
        whole.update(x[start : start + 1000], y[start : start + 1000])
        for one in range(start, start + 1000, 10):
            parts.update(x[one : one + 10], y[one : one + 10])
    assert torch.allclose(whole.weights, parts.weights, atol=0.02)
    assert float((whole(x) - y).square().mean()) < 0.015
    assert bool((whole.inverse.diagonal(dim1=1, dim2=2) > 0).all())
    # a sample past all bounds makes nonsense of nothing but itself.
    whole.update(torch.full((1, 5), 1e100, dtype=torch.float64), torch.full((1, 1), 1e100, dtype=torch.float64))
    assert bool(whole.trust.isfinite().all())


def test_of_several_memories_the_one_that_says_what_comes_is_trusted() -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(900, 2)))
    turns = torch.cat([torch.ones(600), torch.linspace(1, -5, 300)]).double()
    y = (turns * x[:, 0] + 0.3 * torch.tensor(rng.normal(size=900))).unsqueeze(1)
    speeds = (0.9999, 0.9)
    base, alone = LinearBase(x[:50], y[:50], speeds), [LinearBase(x[:50], y[:50], (speed,)) for speed in speeds]
    errors = torch.zeros(2, 3, dtype=torch.float64)
    for start in range(50, 900, 10):
        part = slice(start, start + 10)
        for column, one in enumerate([base, *alone]):
            errors[int(start >= 600), column] += (one(x[part]) - y[part]).square().sum()
            one.update(x[part], y[part])
        if start == 590:
            assert float(base.trust[0]) > 0.8
    assert float(base.trust[1]) > 0.9
    assert float(base.trust.sum()) == pytest.approx(1)
    # never far from the better of the two, which is not always the same.
    assert errors[:, 1:].argmin(1).tolist() == [0, 1]
    assert bool((errors[:, 0] < 1.2 * errors[:, 1:].amin(1)).all())


def test_the_base_goes_on_as_if_it_had_seen_everything() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.normal(size=(90, 3))), torch.tensor(rng.normal(size=(90, 2)))
    base = LinearBase(x[:50], y[:50])
    for start in range(50, 90, 8):
        base.update(x[start : start + 8], y[start : start + 8])
    # what it should be by the normal equations, the penalty once around zero, as recursive least squares keeps it.
    first = LinearBase(x[:50], y[:50])
    ones = torch.cat([x, x.new_ones(90, 1)], 1)
    head, tail = ones[:50], ones[50:]
    prior = torch.linalg.inv(first.inverse)
    wanted = torch.linalg.solve(prior + tail.T @ tail, prior @ first.weights + tail.T @ y[50:])
    assert torch.allclose(base.weights, wanted, atol=1e-9)
    assert head.shape == (50, 4)

"""The logistic model and its shipped coefficients."""

import json
from pathlib import Path

import numpy as np
import pytest

from rhapsode.answering.confidence import SHIPPED, ConfidenceModel, fit_logistic, load_confidence, logistic
from rhapsode.answering.evidence import FEATURES
from rhapsode.errors import StateError


def test_logistic_does_not_overflow() -> None:
    values = np.array([-1e4, -2.0, 0.0, 3.0, 1e4])
    np.testing.assert_allclose(logistic(values), [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-3)), 1], atol=1e-15)


def test_a_fit_finds_the_weights_that_made_the_answers() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40_000, 3))
    truth = np.array([2.0, -1.0, 0.0])
    answered = (rng.random(40_000) < logistic(features @ truth)).astype(np.float64)
    weights, bias = fit_logistic(features, answered, ridge=1e-3)
    # standard errors near 0.02.
    np.testing.assert_allclose(weights, truth, atol=0.1)
    assert abs(bias) < 0.1


def test_classes_of_other_sizes_count_the_same() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(1, 1, size=(500, 1)), rng.normal(-1, 1, size=(20_000, 1))
    labels = np.concatenate([np.ones(500), np.zeros(20_000)])
    weights, bias = fit_logistic(np.concatenate([few, many]), labels)
    # two normals of unit variance at +1 and -1: log odds are 2 x, even at 0.
    assert weights[0] == pytest.approx(2, abs=0.3)
    assert bias == pytest.approx(0, abs=0.2)


def test_the_gradient_is_zero_where_the_fit_ends() -> None:
    rng = np.random.default_rng(2)
    features, answered = rng.normal(size=(200, 2)), np.tile([0.0, 1.0], 100)
    weights, bias = fit_logistic(features, answered, ridge=1.0)
    rest = answered - logistic(features @ weights + bias)
    np.testing.assert_allclose(features.T @ rest - weights, 0, atol=1e-6)
    assert abs(rest.sum()) < 1e-3


def test_the_shipped_model_fits_this_version() -> None:
    model = load_confidence()
    assert set(json.loads(SHIPPED.read_text())["weights"]) == set(FEATURES)
    assert model.num_negatives >= 1000
    assert (np.diff(model.top_scores) >= 0).all()


def test_the_shipped_threshold_follows_the_error_rate_and_even_odds() -> None:
    model = ConfidenceModel(np.zeros(len(FEATURES)), 0.0, np.linspace(0.6, 0.9, 100), 1000)
    thresholds = [model.shipped_threshold(rate) for rate in (0.5, 0.1, 0.05, 0.01, 1e-3, 1e-9)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == 0.5
    assert thresholds[-1] == thresholds[-2] == 0.9


def test_damaged_coefficients_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "coefficients.json"
    value = json.loads(SHIPPED.read_text())
    del value["weights"]["coverage"]
    for text in ("", "[]", json.dumps(value)):
        path.write_text(text)
        load_confidence.cache_clear()
        with pytest.raises(StateError, match="must hold the shipped coefficients"):
            load_confidence(path)

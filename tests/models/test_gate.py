"""The gate as a mixture of distributions, its fit against the best there is, and its file."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError, UserError
from rhapsode.memory.token_contracts import TokenPredictions
from rhapsode.models.gate import FORMS, KINDS, RATES, Gate, GateInputs, fit_gate, gate_inputs, num_features

VOCAB = 7
every_kind = pytest.mark.parametrize("kind", KINDS)


def log_softmax(values: np.ndarray) -> np.ndarray:
    return (values - np.log(np.exp(values).sum(axis=-1, keepdims=True))).astype(np.float32)


def make_inputs(seed: int, length: int, num_memories: int, min_match_length: int = 1) -> GateInputs:
    rng = np.random.default_rng(seed)
    memories = [
        TokenPredictions(
            log_softmax(rng.normal(size=(length, VOCAB)) * 2), rng.integers(0, 20, length), rng.integers(0, 900, length)
        )
        for _ in range(num_memories)
    ]
    return gate_inputs(log_softmax(rng.normal(size=(length, VOCAB))), memories, min_match_length)


def make_gate(seed: int, kind: str, num_memories: int) -> Gate:
    shape = (num_memories + 1, num_features(num_memories))
    rng = np.random.default_rng(seed)
    return Gate(kind, tuple(rng.normal(size=shape) * 0.3 for _ in FORMS[kind]))


def draw_targets(inputs: GateInputs, shares: np.ndarray, seed: int) -> np.ndarray:
    """Draw from the linear mixture with the given shares."""
    probabilities = np.einsum("nk,nkc->nc", shares, np.exp(inputs.log_probs.astype(np.float64)))
    draws = np.random.default_rng(seed).random(len(probabilities))
    return np.minimum((probabilities.cumsum(axis=1) < draws[:, None]).sum(axis=1), VOCAB - 1)


def plain_mix(gate: Gate, inputs: GateInputs, position: int) -> np.ndarray:
    """One position, straight from the equations."""
    forms = zip(FORMS[gate.kind], gate.weights, strict=True)
    return np.mean([plain_form(form, weights, inputs, position) for form, weights in forms], axis=0)


def plain_form(form: str, weights: np.ndarray, inputs: GateInputs, position: int) -> np.ndarray:
    num_memories = len(weights) - 1
    scores = [float(weights[k] @ inputs.features[position]) for k in range(num_memories + 1)]
    chosen = [k for k in range(num_memories + 1) if inputs.is_open[position, k]]
    log_probs = inputs.log_probs[position].astype(np.float64)
    if chosen == [0]:
        return np.exp(log_probs[0])
    if form == "linear":
        total = sum(np.exp(scores[k]) for k in chosen)
        return np.sum([np.exp(scores[k]) / total * np.exp(log_probs[k]) for k in chosen], axis=0)
    product = np.exp(np.sum([scores[k] * log_probs[k] for k in chosen], axis=0))
    return np.asarray(product / product.sum())


@every_kind
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), num_memories=st.integers(1, 3), min_match_length=st.integers(0, 25))
def test_equals_the_equations(kind: str, seed: int, num_memories: int, min_match_length: int) -> None:
    inputs, gate = make_inputs(seed, 12, num_memories, min_match_length), make_gate(seed, kind, num_memories)
    mixed = gate.mix(inputs)
    targets = np.random.default_rng(seed).integers(0, VOCAB, 12)
    scores = gate.score(inputs, targets)
    for i in range(12):
        expected = plain_mix(gate, inputs, i)
        # a handful of terms, of which the log-probabilities are float32.
        np.testing.assert_allclose(np.exp(mixed[i]), expected, rtol=1e-5)
        assert np.exp(mixed[i]).sum() == pytest.approx(1, abs=1e-5)
        assert scores[i] == pytest.approx(mixed[i, targets[i]], abs=1e-6)


@every_kind
def test_the_fit_finds_what_the_text_was_drawn_from(kind: str) -> None:
    inputs = make_inputs(1, 6000, 2)
    # the first memory is right where it matches long, the second never.
    share = np.where(inputs.features[:, 5 + 8 : 5 + 16].any(axis=1), 0.8, 0.1)
    targets = draw_targets(inputs, np.stack([1 - share, share, 0 * share], axis=1), 2)
    gate = fit_gate(inputs, targets, kind)
    other = make_inputs(3, 6000, 2)
    share = np.where(other.features[:, 5 + 8 : 5 + 16].any(axis=1), 0.8, 0.1)
    drawn = draw_targets(other, np.stack([1 - share, share, 0 * share], axis=1), 4)
    rows = np.arange(6000)
    model = other.log_probs[rows, 0, drawn].mean()
    best = np.logaddexp(
        np.log(1 - share) + other.log_probs[rows, 0, drawn], np.log(share) + other.log_probs[rows, 1, drawn]
    ).mean()
    found = gate.score(other, drawn).mean()
    # a linear gate comes near what the text was drawn from; a geometric one has another form.
    assert found > model + (best - model) * (0.7 if kind == "geometric" else 0.85)
    assert found < best + 0.01


@every_kind
def test_learning_scores_first_and_climbs(kind: str) -> None:
    inputs, gate = make_inputs(1, 4000, 1), make_gate(2, kind, 1)
    targets = draw_targets(inputs, np.tile([0.1, 0.9], (4000, 1)), 3)
    before = [part.copy() for part in gate.weights]
    scores, learnt = gate.learn(inputs, targets, 10.0)
    assert all(np.array_equal(new, old) for new, old in zip(gate.weights, before, strict=True))
    assert scores[0] == pytest.approx(gate.score(inputs, targets)[0], abs=1e-6)
    assert learnt.score(inputs, targets).mean() > gate.score(inputs, targets).mean() + 0.02
    still, same = gate.learn(inputs, targets, 0.0)
    np.testing.assert_allclose(still, gate.score(inputs, targets), atol=1e-6)
    assert all(np.array_equal(new, old) for new, old in zip(same.weights, gate.weights, strict=True))


@every_kind
def test_a_step_follows_the_gradient(kind: str) -> None:
    inputs, gate = make_inputs(5, 1, 2), make_gate(6, kind, 2)
    targets = np.array([3])
    _, learnt = gate.learn(inputs, targets)
    for form, old, new in zip(FORMS[kind], gate.weights, learnt.weights, strict=True):
        for row, column in ((0, 0), (1, 2), (2, 4), (1, 30)):
            moved = old.copy()
            moved[row, column] += 1e-4
            difference = Gate(form, (moved,)).score(inputs, targets) - Gate(form, (old,)).score(inputs, targets)
            slope = (new - old)[row, column] / RATES[form]
            assert difference[0] / 1e-4 == pytest.approx(slope, rel=1e-2, abs=1e-3)


@every_kind
def test_where_all_are_closed_it_is_the_model(kind: str) -> None:
    inputs, gate = make_inputs(1, 20, 2, min_match_length=100), make_gate(2, kind, 2)
    targets = np.random.default_rng(1).integers(0, VOCAB, 20)
    np.testing.assert_allclose(gate.mix(inputs), inputs.log_probs[:, 0], atol=1e-6)
    _, learnt = gate.learn(inputs, targets, 0.1)
    np.testing.assert_allclose(np.stack(learnt.weights), np.stack(gate.weights), atol=1e-7)


@every_kind
def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    gate = Gate(kind, make_gate(1, kind, 2).weights, 3)
    gate.save(tmp_path / "gate.json")
    loaded = Gate.load(tmp_path / "gate.json")
    assert (loaded.kind, loaded.min_match_length, loaded.num_memories) == (kind, 3, 2)
    assert np.array_equal(np.stack(loaded.weights), np.stack(gate.weights))
    assert loaded.size_bytes == np.stack(gate.weights).nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format version 99, and this rhapsode reads up to 1"),
        ({"format_version": None}, "has format version None"),
        ({"weights": [[[1.0], [2.0]]]}, "must hold a gate, but it is damaged"),
        ({"weights": "?"}, "must hold a gate, but it is damaged"),
        ({"kind": "cubic"}, "must hold a gate, but it is damaged"),
        ({"min_match_length": None}, "must hold a gate, but it is damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "gate.json"
    make_gate(1, "linear", 1).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StateError, match=message):
        Gate.load(path)


def test_misuse_is_refused() -> None:
    (weights,) = make_gate(1, "linear", 1).weights
    with pytest.raises(UserError, match=r"gate\.kind must be one of both, geometric, linear; got 'lineal'"):
        Gate("lineal", (weights,))
    with pytest.raises(UserError, match=r"gate\.weights must be K \+ 1 rows of 3 \+ 19 K; got \(2, 21\)"):
        Gate("linear", (weights[:, 1:],))
    with pytest.raises(UserError, match=r"gate\.weights must be finite"):
        Gate("linear", (np.where(weights > 0, np.inf, weights),))
    with pytest.raises(UserError, match=r"gate\.min_match_length must be at least 0; got -1"):
        Gate("linear", (weights,), -1)
    with pytest.raises(UserError, match=r"gate\.weights must hold 2 arrays for both; got 1"):
        Gate("both", (weights,))
    empty = make_inputs(1, 0, 1)
    with pytest.raises(UserError, match="calibration text must hold at least one token"):
        fit_gate(empty, np.empty(0, dtype=np.int64))
    with pytest.raises(UserError, match=r"gate\.kind must be one of"):
        fit_gate(empty, np.empty(0, dtype=np.int64), "cubic")

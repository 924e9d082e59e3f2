"""The unigram control."""

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.memory import Unigram


def test_add_one_by_hand() -> None:
    model = Unigram.fit(np.array([2, 2, 0, 2]), vocab_size=4)
    np.testing.assert_allclose(np.exp(model.log_probabilities), np.array([2, 1, 4, 1]) / 8)
    np.testing.assert_allclose(model.log_prob(np.array([1, 2])), np.log([1 / 8, 1 / 2]))
    assert model.nats_per_token(np.array([1, 2])) == pytest.approx(-(np.log(1 / 8) + np.log(1 / 2)) / 2)


def test_sums_to_one_and_approaches_the_entropy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(300))
    model = Unigram.fit(rng.choice(300, size=200_000, p=truth), 300)
    assert np.exp(model.log_probabilities).sum() == pytest.approx(1.0, abs=1e-12)
    # a log probability below 10 and 200,000 draws: a standard error under 0.003.
    entropy = -(truth * np.log(truth)).sum()
    assert model.nats_per_token(rng.choice(300, size=200_000, p=truth)) == pytest.approx(entropy, abs=0.01)


def test_bad_input_is_refused() -> None:
    model = Unigram.fit(np.arange(4), 4)
    nothing = np.empty(0, dtype=np.int64)
    with pytest.raises(UserError, match="vocab_size must be at least 1"):
        Unigram.fit(np.arange(4), 0)
    with pytest.raises(UserError, match="ids must hold at least one id; got none"):
        Unigram.fit(nothing, 4)
    with pytest.raises(UserError, match="ids must hold at least one id; got none"):
        model.nats_per_token(nothing)
    with pytest.raises(UserError, match="below the vocabulary size 4; got 4 at position 1"):
        Unigram.fit(np.array([0, 4]), 4)
    with pytest.raises(UserError, match="below the vocabulary size 4; got -1 at position 0"):
        model.log_prob(np.array([-1]))

"""The schedule is the published one, and settings that cannot work are refused."""

import pytest

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.training.embedding.config import QUICK, EmbeddingConfig, cosine_rate


def test_the_schedule_is_the_published_one() -> None:
    rates = [f"{cosine_rate(step, 1e-3, 20, 100):.2e}" for step in (10, 20, 30, 40, 50, 100)]
    assert rates == ["5.00e-04", "1.00e-03", "9.62e-04", "8.54e-04", "6.91e-04", "1.00e-07"]


def test_the_rate_rises_falls_and_ends_at_the_floor() -> None:
    for peak, warmup, steps in ((1e-3, 0, 1), (2e-2, 7, 50), (1e-4, 100, 101)):
        rates = [cosine_rate(step, peak, warmup, steps) for step in range(1, steps + 1)]
        assert rates[:warmup] == sorted(rates[:warmup])
        assert rates[max(0, warmup - 1) :] == sorted(rates[max(0, warmup - 1) :], reverse=True)
        assert max(rates) <= peak
        assert rates[-1] == pytest.approx(1e-7)


def test_the_defaults_are_the_documents() -> None:
    config = EmbeddingConfig()
    assert (config.vocab_size, config.dim, config.num_bundles) == (50_257, 256, 256)
    assert (config.max_steps, config.learning_rate, config.temperature, config.clip_norm) == (5_000, 1e-4, 0.07, 1.0)
    assert build_config(EmbeddingConfig, QUICK).max_steps == 100


def test_a_short_training_warms_up_for_a_fifth_of_it() -> None:
    assert EmbeddingConfig(max_steps=50).warmup_steps == 10
    with pytest.raises(UserError, match=r"--warmup-steps must be below --max-steps; got 50 and 50. Try 10"):
        build_config(EmbeddingConfig, {"max_steps": 50, "warmup_steps": 50})
    with pytest.raises(UserError, match=r"--warmup-steps must be below --max-steps; got 1 and 1. Try 0"):
        build_config(EmbeddingConfig, {"max_steps": 1, "warmup_steps": 1})
    assert EmbeddingConfig(max_steps=1).warmup_steps == 0

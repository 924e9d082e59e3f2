"""Judging a draft in one loop, against choosing at each position by itself."""

from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.generation.choice_kernels import CLOSE, DAMAGED, ENDED, judge_greedy, judge_sampled
from rhapsode.generation.choices import USUAL_LOGIT, choose
from rhapsode.generation.config import GenerationConfig

SAMPLERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8},
    {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "min_p": 0.01},
    {"temperature": 0.7, "top_k": 0, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 500, "top_p": 1.0},
]


def judge(
    logits: np.ndarray, fed: list[int], config: GenerationConfig, uniforms: list[float], tolerance: float
) -> tuple[list[int], int, list[int]]:
    likeliest, chosen = np.zeros(len(fed), dtype=np.int64), np.zeros(len(fed), dtype=np.int64)
    if config.temperature == 0:
        chosen = likeliest
        taken, ending = judge_greedy(logits, np.array(fed), tolerance, USUAL_LOGIT, likeliest)
    else:
        filters = (config.top_k or 0, config.temperature, config.top_p, config.min_p)
        taken, ending = judge_sampled(
            logits, np.array(fed), np.array(uniforms), *filters, tolerance, USUAL_LOGIT, chosen, likeliest
        )
    return chosen[:taken].tolist(), ending, likeliest.tolist()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [6, 300])
def test_a_draft_is_kept_as_far_as_each_position_chooses_it(sampler: dict[str, Any], size: int) -> None:
    config = GenerationConfig.model_validate({"temperature": 0.0, **sampler})
    rng = np.random.default_rng(size)
    endings = set()
    for trial in range(60):
        logits = rng.normal(scale=3, size=(5, size)).astype(np.float32)
        uniforms = rng.random(5).tolist()
        # ids that stand before others in half of the trials, so that some calls are close.
        tolerance = 0.2 if trial % 2 else 1e-6
        found = choose(torch.from_numpy(logits), config, uniforms, torch.tensor([3]), [3] * 5, tolerance)
        fed = [3, *[token if rng.random() < 0.8 else 2 for token in found.ids[:4]]]
        wanted: list[int] = []
        ending = ENDED
        for place, (token, certain) in enumerate(zip(found.ids, found.certain, strict=True)):
            if not certain:
                ending = CLOSE
                break
            wanted.append(token)
            if place == 4 or token != fed[place + 1]:
                break
        ids, ended, likeliest = judge(logits, fed, config, uniforms, tolerance)
        assert (ids, ended) == (wanted, ending)
        assert likeliest == (logits[:, 2:].argmax(1) + 2).tolist()
        endings.add(ended)
    assert endings == {ENDED, CLOSE}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("index", [2, 9, 19])
def test_a_logit_that_is_not_finite_is_noticed(value: float, index: int) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 20)).astype(np.float32)
    logits[0, index] = value
    for sampler in SAMPLERS:
        config = GenerationConfig.model_validate({"temperature": 0.0, **sampler})
        assert judge(logits, [3, 4], config, [0.5, 0.5], 1e-6)[1] == DAMAGED


def test_equal_logits_are_too_close_to_call() -> None:
    logits = np.zeros((1, 20), dtype=np.float32)
    logits[0, [5, 8]] = 4.0
    config = GenerationConfig.model_validate({"temperature": 0.0})
    assert judge(logits, [3], config, [], 1e-6)[:2] == ([], CLOSE)

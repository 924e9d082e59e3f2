"""The ids that a sampler takes at several positions, and whether rounding could have changed them.

One position is computed exactly as `sample` does it. Positions that a model read together have logits that differ from
those read one by one in the last bits; an id is certain if no change of every logit by up to a tolerance alters it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.sampling import (
    NUM_NEVER_SAMPLED,
    check_finite,
    filter_logits,
    penalize_seen,
)

# what logits are bounded by in most recipes; rounding grows with them.
USUAL_LOGIT = 15.0


@dataclass(frozen=True)
class Choices:
    """Of each position: the id, whether it is certain, and an id that the next drafts can use there.

    That is the likeliest id; without a tolerance, in the steps of plain decoding, the id itself.
    """

    ids: list[int]
    certain: list[bool]
    likeliest: list[int]


def choose(
    logits: Float[Tensor, "N C"],
    config: GenerationConfig,
    uniforms: list[float],
    seen_ids: Int[Tensor, " M"],
    fed: list[int],
    tolerance: float,
) -> Choices:
    """Choose an id after each of N positions; position j is reached if `fed[1 : j + 1]` was chosen before.

    Args:
        logits: float32, not changed.
        uniforms: a number in [0, 1) for each position; none are used at temperature 0.
        seen_ids: int64, for the repetition penalty: prompt and output with `fed[0]`.
        fed: the ids that the positions end with.
        tolerance: of logits of the usual size.

    Raises:
        StateError: if a logit is not a number or infinite.

    Cost: O(N C), and N sorts of C only if top-p is on and top-k off.
    """
    if config.repetition_penalty != 1:
        logits = torch.stack(
            [
                penalize_seen(row, torch.cat([seen_ids, torch.tensor(fed[1 : j + 1], dtype=torch.int64)]), factor)
                for factor in [config.repetition_penalty]
                for j, row in enumerate(logits)
            ]
        )
    allowed = logits[:, NUM_NEVER_SAMPLED:]
    if config.temperature == 0:
        return _choose_likeliest(allowed, tolerance)
    numbers = np.array(uniforms)
    if tolerance > 0:
        return _draw_certain(allowed, config, numbers, tolerance)
    ranked, places = filter_logits(allowed, config)
    check_finite(ranked.amax(dim=-1))
    ids = _name(draw_each(ranked, torch.from_numpy(numbers)), places)
    return Choices(ids, [True] * len(ids), ids)


def draw_each(logits: Float[Tensor, "N K"], uniforms: Float64[Tensor, " N"]) -> Int[Tensor, "N 1"]:
    """As `draw`, for N rows with a number each."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(cumulative, (1 - uniforms)[:, None] * cumulative[:, -1:])


def _choose_likeliest(allowed: Float[Tensor, "N C"], tolerance: float) -> Choices:
    # the same operation as `sample`, which breaks exact ties in its own way.
    best, index = allowed.max(dim=-1)
    check_finite(best)
    ids = (index + NUM_NEVER_SAMPLED).tolist()
    if tolerance <= 0:
        return Choices(ids, [True] * len(ids), ids)
    two = allowed.topk(min(2, allowed.shape[-1]), dim=-1).values
    gap = two[:, 0] - two[:, -1] if two.shape[-1] > 1 else torch.full_like(best, torch.inf)
    return Choices(ids, (gap > tolerance * (best.abs() / USUAL_LOGIT).clamp(min=1)).tolist(), ids)


def _draw_certain(
    allowed: Float[Tensor, "N C"], config: GenerationConfig, uniforms: Float64[np.ndarray, " N"], tolerance: float
) -> Choices:
    from rhapsode.generation.choice_kernels import decide

    size = allowed.shape[-1]
    is_ranked = bool(config.top_k) or config.top_p < 1
    kept = min(config.top_k or size, size)
    if is_ranked:
        # one more than are kept: the last of them may change places with it.
        values, places = allowed.topk(min(kept + 1, size), dim=-1)
        names: Tensor | None = places
    else:
        values, names = allowed, None
    check_finite(values.amax(dim=-1))
    at = np.empty(len(uniforms), dtype=np.int64)
    certain = np.empty(len(uniforms), dtype=np.bool_)
    edges = (kept, is_ranked, config.temperature, config.top_p, config.min_p)
    decide(values.numpy(), *edges, uniforms, tolerance, USUAL_LOGIT, at, certain)
    likeliest = _name(values.argmax(dim=-1, keepdim=True), names)
    return Choices(_name(torch.from_numpy(at)[:, None], names), certain.tolist(), likeliest)


def _name(places: Int[Tensor, "N 1"], names: Int[Tensor, "N K"] | None) -> list[int]:
    ids: list[int] = ((places if names is None else names.gather(-1, places))[:, 0] + NUM_NEVER_SAMPLED).tolist()
    return ids

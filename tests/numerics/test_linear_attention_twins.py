"""Gated linear attention in chunks against its recurrence: values and gradients, odd lengths, extreme decays."""

import pytest
import torch
from torch import Tensor

from rhapsode.ops.linear_attention import (
    CHUNK_SIZE,
    CHUNKS_AT_ONCE,
    MIN_LOG_DECAY,
    gated_linear_attention,
    gated_linear_attention_plain,
)

BATCH, HEADS, KEY, VALUE = 2, 3, 5, 4
# what a state sums over some 300 positions walks at random: sqrt(300) x 2^-24 x values of size 10, times ten.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def make_inputs(length: int, slowest: float, fastest: float, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(BATCH, HEADS, *shape, generator=generator)

    rate = torch.rand(BATCH, HEADS, length, KEY, generator=generator)
    decay = slowest + (fastest - slowest) * rate
    tensors = (draw(length, KEY), draw(length, KEY), draw(length, VALUE), decay, draw(KEY, VALUE))
    return tuple(tensor.requires_grad_() for tensor in tensors)


def make_segments(length: int) -> Tensor:
    starts = torch.rand(BATCH, length, generator=torch.Generator().manual_seed(7)) < 0.1
    return starts.long().cumsum(dim=1)


@pytest.mark.parametrize(
    "length", [1, 2, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 61, CHUNK_SIZE * CHUNKS_AT_ONCE + 9]
)
@pytest.mark.parametrize("decays", [(0.0, 0.0), (-0.001, -0.3), (-0.1, MIN_LOG_DECAY), (MIN_LOG_DECAY, MIN_LOG_DECAY)])
@pytest.mark.parametrize("with_segments", [False, True])
def test_chunks_equal_the_recurrence(length: int, decays: tuple[float, float], with_segments: bool) -> None:
    inputs = make_inputs(length, *decays)
    segments = make_segments(length) if with_segments else None
    # the first document goes on from the memory in one row, and not in the other.
    before = torch.tensor([0, -1]) if with_segments else None
    weights = make_inputs(length, *decays, seed=1)
    results = []
    for function in (gated_linear_attention, gated_linear_attention_plain):
        y, memory = function(*inputs, segments, before)
        total = (y * weights[2]).sum() + (memory * weights[4]).sum()
        results.append((y, memory, *torch.autograd.grad(total, inputs)))
    for fast, plain in zip(*results, strict=True):
        assert fast.isfinite().all()
        # gradients of decays grow with the state, which without decay sums every position.
        scale = max(1.0, float(plain.detach().abs().max()))
        torch.testing.assert_close(fast / scale, plain / scale, **TOLERANCE)


def test_large_inputs_under_the_fastest_decay_stay_finite() -> None:
    q, k, v, decay, memory = make_inputs(40, MIN_LOG_DECAY, MIN_LOG_DECAY)
    y, after = gated_linear_attention(1e2 * q, 1e2 * k, v, decay, memory)
    (y.sum() + after.sum()).backward()
    assert y.isfinite().all()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in (q, k, v, decay, memory))

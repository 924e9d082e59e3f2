"""Attention written out against the fused kernel: values and gradients."""

import pytest
import torch
from torch import Tensor

from rhapsode.ops.attention import attend, attend_fused

# two float32 kernels add up to about 80 terms of size one in different orders: 80 x 2^-24 is 5e-6.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def make_inputs(
    batch: int, heads: tuple[int, int], lengths: tuple[int, int], dims: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values for (query, key-value) heads, lengths and sizes."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = [
        (batch, heads[0], lengths[0], dims[0]),
        (batch, heads[1], lengths[1], dims[0]),
        (batch, heads[1], lengths[1], dims[1]),
    ]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


def make_visible(num_queries: int, num_stored: int, window: int, segments: Tensor | None = None) -> Tensor:
    """The last `num_queries` of `num_stored` positions look back over `window`, inside their segment."""
    stored = torch.arange(num_stored)
    distance = stored[-num_queries:, None] - stored
    visible = ((distance >= 0) & (distance < window))[None, None]
    if segments is not None:
        visible = visible & (segments[:, None, -num_queries:, None] == segments[:, None, None, :])
    return visible


@pytest.mark.parametrize("lengths", [(1, 7), (7, 7), (13, 31), (67, 79)])
@pytest.mark.parametrize("heads", [(3, 3), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [1, 5, 1000])
def test_values_and_gradients(lengths: tuple[int, int], heads: tuple[int, int], window: int) -> None:
    inputs = make_inputs(2, heads, lengths, (6, 10))
    visible = make_visible(*lengths, window)
    results = []
    for function in (attend, attend_fused):
        leaves = [part.clone().requires_grad_() for part in inputs]
        y = function(*leaves, visible, 0.37)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append((y, *torch.autograd.grad((y * weight).sum(), leaves)))
    for written_out, fused in zip(*results, strict=True):
        torch.testing.assert_close(written_out, fused, **TOLERANCE)


def test_every_row_of_the_batch_has_its_own_segments() -> None:
    q, k, v = make_inputs(3, (4, 2), (9, 23), (8, 8))
    segments = torch.randint(0, 3, (3, 23), generator=torch.Generator().manual_seed(2)).sort(dim=1).values
    visible = make_visible(9, 23, 11, segments)
    torch.testing.assert_close(attend(q, k, v, visible, 0.5), attend_fused(q, k, v, visible, 0.5), **TOLERANCE)


def test_large_scores_stay_finite() -> None:
    q, k, v = make_inputs(1, (2, 2), (5, 5), (4, 4))
    visible = make_visible(5, 5, 5)
    y = attend(q * 1e3, k * 1e3, v, visible, 1.0)
    assert y.isfinite().all()
    torch.testing.assert_close(y, attend_fused(q * 1e3, k * 1e3, v, visible, 1.0), **TOLERANCE)


def test_half_precision_keeps_its_type_and_a_float32_softmax() -> None:
    q, k, v = (part.bfloat16() for part in make_inputs(2, (4, 2), (17, 29), (16, 16)))
    visible = make_visible(17, 29, 100)
    y = attend(q, k, v, visible, 0.25)
    assert y.dtype == torch.bfloat16
    exact = attend_fused(q.double(), k.double(), v.double(), visible, 0.25)
    # scores, weights and the result are each rounded to 2^-9 of their size; scores reach about 4 and shift the
    # logarithm of a weight by as much, so 5 roundings of values below 4 bound the error by 5 x 4 x 2^-9 = 0.04.
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=0.04)

"""Streamed statistics against torch.cov, and hyperplanes whose distances do not jump."""

import pytest
import torch
from torch import Tensor

from rhapsode.errors import StateError, UserError
from rhapsode.ops.sketch.whitening import StreamingCovariance, fit_whitening


def make_rows(count: int = 400, dim: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mix + 5 * torch.randn(dim, generator=generator)


def make_statistics(rows: Tensor, dtype: torch.dtype = torch.float64) -> StreamingCovariance:
    statistics = StreamingCovariance(rows.shape[1], dtype)
    for batch in (rows[:1], rows[1:1], rows[1:150], rows[150:]):
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_batches_give_the_covariance_of_all(dtype: torch.dtype) -> None:
    rows = make_rows()
    statistics = make_statistics(rows, dtype)
    wide = rows.double()
    torch.testing.assert_close(statistics.mean.double(), wide.mean(0), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(statistics.covariance().double(), wide.T.cov(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_whitened_rows_are_white(kind: str) -> None:
    rows = make_rows()
    whitening = fit_whitening(make_statistics(rows), kind, epsilon=1e-9)
    torch.testing.assert_close(whitening.apply(rows).T.cov(), torch.eye(12), atol=1e-2, rtol=0)
    torch.testing.assert_close(whitening.invert(whitening.apply(rows)), rows, atol=1e-3, rtol=0)


def test_zca_turns_nothing() -> None:
    whitening = fit_whitening(make_statistics(make_rows()), "zca")
    torch.testing.assert_close(whitening.forward, whitening.forward.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["none", "pca", "zca"])
def test_distances_do_not_jump(kind: str) -> None:
    rows = make_rows()
    whitening = fit_whitening(make_statistics(rows), kind)
    normals = torch.nn.functional.normalize(torch.randn(30, 12), dim=1)
    offsets = torch.randn(30)
    before = rows @ normals.T + offsets
    new_normals, new_offsets = whitening.map_hyperplanes(normals, offsets)
    after = whitening.apply(rows) @ new_normals.T + new_offsets
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-4)


def test_a_constant_column_stays_small() -> None:
    rows = make_rows()
    rows[:, 3] = 7
    white = fit_whitening(make_statistics(rows), "zca").apply(rows)
    assert white.isfinite().all()
    assert float(white[:, 3].abs().max()) < 1e-2


def test_half_precision_goes_in_and_out() -> None:
    rows = make_rows().half()
    whitening = fit_whitening(make_statistics(rows), "pca")
    assert whitening.apply(rows).dtype == torch.float16
    normals, offsets = whitening.map_hyperplanes(torch.randn(3, 12).half(), torch.randn(3).half())
    assert (normals.dtype, offsets.dtype) == (torch.float16, torch.float16)


def test_gradient_flows() -> None:
    x = make_rows(5).requires_grad_()
    whitening = fit_whitening(make_statistics(make_rows()), "pca")
    (gradient,) = torch.autograd.grad(whitening.apply(x).sum(), x)
    torch.testing.assert_close(gradient[0], whitening.forward.sum(1))


def test_what_cannot_be_fitted_is_refused() -> None:
    statistics = StreamingCovariance(3)
    with pytest.raises(StateError, match="needs at least 2 rows; got 0"):
        fit_whitening(statistics, "pca")
    with pytest.raises(UserError, match="x must have 3 columns; got 4"):
        statistics.update(torch.zeros(2, 4))
    with pytest.raises(UserError, match="x must be finite"):
        statistics.update(torch.full((2, 3), torch.inf))
    assert statistics.count == 0
    statistics.update(torch.ones(5, 3))
    with pytest.raises(StateError, match="features that vary"):
        fit_whitening(statistics, "zca")
    with pytest.raises(UserError, match="epsilon must be above 0"):
        fit_whitening(statistics, "zca", epsilon=0)
    with pytest.raises(UserError, match="dtype must be float32 or float64"):
        StreamingCovariance(3, torch.float16)

"""The opaque lookup against plain indexing, values and gradients."""

import pytest
import torch

from rhapsode.ops.lookup import look_up, look_up_plain


@pytest.mark.parametrize(("rows", "width", "shape"), [(1, 1, (1, 1)), (7, 3, (2, 5)), (50, 16, (3, 33))])
def test_values_and_gradients_are_those_of_indexing(rows: int, width: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(rows)
    table = torch.randn(rows, width, generator=generator, requires_grad=True)
    # few rows and many ids: the same row is looked up again and again.
    ids = torch.randint(rows, shape, generator=generator)
    weights = torch.randn(*shape, width, generator=generator)
    out, plain = look_up(table, ids), look_up_plain(table, ids)
    assert torch.equal(out, plain)
    (gradient,) = torch.autograd.grad((out * weights).sum(), table)
    (expected,) = torch.autograd.grad((plain * weights).sum(), table)
    # sums of at most 99 products of standard normals, in another order.
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_the_operation_and_the_direct_call_are_the_same_bits() -> None:
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor([[1, 6, 6], [0, 2, 1]])
    with torch.no_grad():
        direct = look_up(table, ids)
    assert torch.equal(direct, look_up(table, ids))

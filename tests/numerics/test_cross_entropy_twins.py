"""Cross-entropy in pieces against one piece: values, gradients, and what it keeps in memory."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rhapsode.ops.cross_entropy import cross_entropy, cross_entropy_plain


def make_problem(rows: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden vectors, targets, a head's weight, and the gradient that comes from above."""
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(classes, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, classes, (rows,), generator=generator)
    return hidden, targets, weight, torch.randn(rows, generator=generator)


def capped(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: 15 * (F.linear(rows, weight) / 15).tanh()


@pytest.mark.parametrize("rows", [1, 2, 13, 64])
@pytest.mark.parametrize("chunk_size", [0, 1, 3, 7, 64, 100])
def test_values_and_gradients(rows: int, chunk_size: int) -> None:
    hidden, targets, weight, above = make_problem(rows, 9, 31)
    results = []
    for losses in (
        cross_entropy(hidden, targets, capped(weight), chunk_size),
        cross_entropy_plain(hidden, targets, capped(weight)),
    ):
        results.append((losses, *torch.autograd.grad(losses @ above, (hidden, weight))))
    for pieces, whole in zip(*results, strict=True):
        # the gradient of the weight sums 64 rows in another order: 64 x 2^-24 x values below 5.
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=2e-5)


def test_plain_is_minus_the_log_probability() -> None:
    hidden, targets, weight, _ = make_problem(17, 5, 11)
    probabilities = (hidden.double() @ weight.double().T).softmax(dim=-1)
    expected = -probabilities[torch.arange(17), targets].log()
    torch.testing.assert_close(cross_entropy_plain(hidden, targets, lambda rows: rows @ weight.T).double(), expected)


def test_half_precision_logits_are_summed_in_float32() -> None:
    hidden, targets, weight, _ = make_problem(19, 8, 4001)
    losses = cross_entropy(hidden.bfloat16(), targets, lambda rows: rows @ weight.bfloat16().T, chunk_size=4)
    assert losses.dtype == torch.float32
    logits = hidden.bfloat16() @ weight.bfloat16().T
    torch.testing.assert_close(losses, F.cross_entropy(logits.float(), targets, reduction="none"))


def test_the_head_never_sees_more_than_a_chunk_and_no_logits_are_kept() -> None:
    hidden, targets, weight, above = make_problem(50, 4, 97)
    calls: list[int] = []
    kept: list[int] = []

    def head(rows: Tensor) -> Tensor:
        calls.append(rows.shape[0])
        return F.linear(rows, weight)

    def keep(tensor: Tensor) -> Tensor:
        # the head's weight, kept as (4, 97), is not logits.
        if tensor.shape[-1:] == (97,) and tensor.shape[0] != 4:
            kept.append(tensor.shape[0])
        return tensor

    def run(chunk_size: int) -> tuple[list[int], list[int], list[int]]:
        calls.clear()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = cross_entropy(hidden, targets, head, chunk_size)
        forward, held = list(calls), list(kept)
        calls.clear()
        losses.backward(above)
        return forward, list(calls), held

    # in one piece the graph keeps all logits: the measure works.
    forward, backward, held = run(0)
    assert (forward, backward, set(held)) == ([50], [], {50})
    forward, backward, held = run(16)
    assert forward == [16, 16, 16, 2]
    assert sorted(backward) == [2, 16, 16, 16]
    assert held == []

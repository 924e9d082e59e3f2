"""Newton-Schulz iteration against its polynomial on the singular values, and Muon against PyTorch's."""

import pytest
import torch
from torch import Tensor

from rhapsode.ops.newton_schulz import orthogonalize, orthogonalize_plain
from rhapsode.training.muon import Muon

SHAPES = [(1, 1), (1, 9), (9, 1), (7, 7), (5, 33), (33, 5), (64, 48)]


def make_matrix(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_float32_equals_the_plain_form(shape: tuple[int, int], scale: float) -> None:
    matrix = make_matrix(shape) * scale
    fast = orthogonalize(matrix, dtype=torch.float32)
    assert fast.dtype == torch.float32
    # fifteen products, each of sums of at most 64 terms below one, whose roundings walk at random:
    # 15 x sqrt(64) x 2^-24 = 7e-6.
    torch.testing.assert_close(fast, orthogonalize_plain(matrix), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_number_of_steps(steps: int) -> None:
    matrix = make_matrix((6, 11))
    fast = orthogonalize(matrix, steps, torch.float32)
    torch.testing.assert_close(fast, orthogonalize_plain(matrix, steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (48, 96)])
def test_bfloat16_singular_values_stay_in_the_band(shape: tuple[int, int]) -> None:
    matrix = make_matrix(shape, seed=3)
    fast = orthogonalize(matrix)
    assert fast.dtype == torch.bfloat16
    exact = torch.linalg.svdvals(orthogonalize_plain(matrix).double())
    values = torch.linalg.svdvals(fast.double())
    # rounding to 8 bits changes a matrix by a random one whose largest singular value is about 2^-9 x 2 / sqrt(3);
    # a step does so to terms of total size 3.4 + 4.8 + 2.0, five steps follow one another, and where the values
    # are, near 1, the polynomial's slope is about -1: sqrt(5) x 10.2 x 0.0023 = 0.05 (Weyl's inequality).
    assert (values - exact).abs().max() < 0.06
    assert values.min() > 0.62
    assert values.max() < 1.2


def test_a_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5, dtype=torch.bfloat16))


def test_input_is_unchanged() -> None:
    for shape in [(5, 33), (33, 5)]:
        matrix = make_matrix(shape)
        before = matrix.clone()
        orthogonalize(matrix, dtype=torch.float32)
        assert torch.equal(matrix, before)


def gradients(shape: tuple[int, int], steps: int) -> list[Tensor]:
    return [make_matrix(shape, seed=10 + step) * 10.0 ** (step % 3 - 1) for step in range(steps)]


@pytest.mark.parametrize("shape", [(7, 7), (5, 33), (33, 5), (64, 48)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_follows_its_equation(shape: tuple[int, int], weight_decay: float) -> None:
    parameter = torch.nn.Parameter(make_matrix(shape))
    optimizer = Muon([parameter], lr=0.02, momentum=0.9, weight_decay=weight_decay, dtype=torch.float32)
    expected, average = parameter.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for gradient in gradients(shape, 6):
        parameter.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        update = orthogonalize_plain(0.1 * gradient + 0.9 * average)
        rate = 0.02 * max(1, shape[0] / shape[1]) ** 0.5
        expected = (1 - 0.02 * weight_decay) * expected - rate * update
        assert torch.equal(parameter.grad, gradient)
    # six updates, each exact to 1e-5 (see above) times a rate of at most 0.052, onto weights below 4.
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=0, atol=6 * (1e-5 * 0.052 + 4 * 2**-24))


@pytest.mark.parametrize("shape", [(7, 7), (5, 33), (33, 5), (64, 48), (48, 64)])
def test_muon_equals_torch_muon(shape: tuple[int, int]) -> None:
    ours, theirs = (torch.nn.Parameter(make_matrix(shape)) for _ in range(2))
    start = ours.detach().clone()
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizers = [
        Muon([ours], **settings),
        torch.optim.Muon([theirs], **settings, nesterov=True, adjust_lr_fn="original"),
    ]
    for gradient in gradients(shape, 8):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    # the gradients do not depend on the weights, so the errors of eight updates only add up. Both iterate in
    # bfloat16 and may differ in the order of sums: a few roundings of 2^-9, relative to what was moved.
    moved = (theirs - start).norm()
    assert moved > 8 * 0.02
    assert (ours - theirs).norm() < 0.01 * moved


def test_muon_skips_parameters_without_a_gradient() -> None:
    parameter = torch.nn.Parameter(make_matrix((3, 4)))
    before = parameter.detach().clone()
    Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.equal(parameter, before)


def test_stacked_maps_are_updated_like_separate_ones() -> None:
    stacked, alone = torch.nn.Parameter(make_matrix((9, 8))), torch.nn.Parameter(make_matrix((5, 8), seed=1))
    parts = [torch.nn.Parameter(part.clone()) for part in stacked.detach().split([4, 3, 2])]
    single = torch.nn.Parameter(alone.detach().clone())
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "dtype": torch.float32}
    together = Muon([stacked, alone], **settings, parts={stacked: [4, 3, 2]})
    apart = Muon([*parts, single], **settings)
    for gradient in gradients((9, 8), 4):
        stacked.grad, alone.grad, single.grad = gradient.clone(), gradient[:5].clone(), gradient[:5].clone()
        for part, rows in zip(parts, gradient.split([4, 3, 2]), strict=True):
            part.grad = rows.clone()
        together.step()
        apart.step()
    assert torch.equal(stacked.detach(), torch.cat([part.detach() for part in parts]))
    assert torch.equal(alone, single)
    assert together.state[stacked]["momentum"].shape == (9, 8)

"""The compiled products and functions against NumPy and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rhapsode.generation.compiled.arithmetic import activate, exponentiate, multiply, normalize, soft_cap


@pytest.mark.parametrize("size", [4, 7, 66])
def test_products_are_those_of_numpy_and_do_not_depend_on_how_many_come_together(size: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((12, size), dtype=np.float32)
    weight = rng.standard_normal((size, 19), dtype=np.float32)
    out = np.full((12, 19), np.nan, dtype=np.float32)
    together = []
    for count in range(1, 12):
        multiply(rows, weight, out, count)
        # sums of at most 66 products of size 1.
        assert out[:count] == pytest.approx(rows[:count].astype(np.float64) @ weight, abs=1e-4)
        together.append(out[:count].copy())
    for count in range(1, 11):
        assert np.array_equal(together[count - 1], together[-1][:count])


def test_exponentials_are_right_to_float32() -> None:
    values = np.concatenate([np.linspace(-80, 0, 2_000), [0.0, -1e-8, -200.0]]).astype(np.float32)
    found = values.copy()
    exponentiate(found, np.zeros(len(values), dtype=np.int32))
    assert found[:-1] == pytest.approx(np.exp(values[:-1].astype(np.float64)), rel=4e-7)
    assert 0 <= found[-1] < 1e-37


@pytest.mark.parametrize("cap", [5.0, 15.0])
def test_the_cap_is_that_of_the_decoder(cap: float) -> None:
    logits = np.random.default_rng(0).normal(scale=20, size=503).astype(np.float32)
    found = logits.copy()
    soft_cap(found, np.float32(cap), np.zeros(600, dtype=np.float32), np.zeros(600, dtype=np.int32))
    wanted = cap * np.tanh(logits.astype(np.float64) / cap)
    assert found == pytest.approx(wanted, abs=2e-7 * cap)


@pytest.mark.parametrize("is_layer_norm", [False, True])
def test_norms_are_those_of_pytorch(is_layer_norm: bool) -> None:
    rng = np.random.default_rng(1)
    row, gain, bias = rng.normal(size=(3, 37)).astype(np.float32)
    out = np.zeros_like(row)
    normalize(row, out, is_layer_norm, gain, bias)
    one = torch.from_numpy(row)
    if is_layer_norm:
        wanted = F.layer_norm(one, (37,), torch.from_numpy(gain), torch.from_numpy(bias))
    else:
        wanted = F.rms_norm(one, (37,))
    assert out == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.parametrize("is_gelu", [False, True])
def test_activations_are_those_of_pytorch(is_gelu: bool) -> None:
    row = np.random.default_rng(2).normal(scale=3, size=101).astype(np.float32)
    one = torch.from_numpy(row.copy())
    activate(row, is_gelu)
    wanted = F.gelu(one) if is_gelu else F.relu(one).square()
    assert row == pytest.approx(wanted.numpy(), abs=1e-5)


def test_what_is_not_a_number_stays_so() -> None:
    broken = np.array([1.0, np.nan, -1.0], dtype=np.float32)
    scratch, bits = np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.int32)
    for function in (
        lambda row: exponentiate(row, bits),
        lambda row: soft_cap(row, np.float32(15.0), scratch, bits),
        lambda row: activate(row, False),
        lambda row: activate(row, True),
    ):
        row = broken.copy()
        function(row)
        assert np.isnan(row[1])

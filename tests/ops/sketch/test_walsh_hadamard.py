"""H H = I, and the kernel and the Kronecker products against the butterflies, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import UserError
from rhapsode.ops.sketch import walsh_hadamard as module
from rhapsode.ops.sketch.walsh_hadamard import (
    hadamard_matrix,
    next_power_of_two,
    walsh_hadamard,
    walsh_hadamard_kronecker,
    walsh_hadamard_plain,
)

# one rounding of the result: half a unit in the last place of numbers up to 8, doubled for the twin's own.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("length", [1, 2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 65536])
def test_values_are_those_of_the_butterflies(length: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(length)).to(dtype)
    wanted = walsh_hadamard_plain(x)
    atol = TOLERANCE[dtype]
    torch.testing.assert_close(walsh_hadamard(x), wanted, atol=atol, rtol=0)
    torch.testing.assert_close(walsh_hadamard_kronecker(x), wanted, atol=atol, rtol=0)
    # a fresh output full of NaN shows what was not written.
    out = torch.full_like(x, torch.nan)
    assert walsh_hadamard(x, out=out) is out
    torch.testing.assert_close(out, wanted, atol=atol, rtol=0)


def test_butterflies_are_the_matrix() -> None:
    x = torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close(walsh_hadamard_plain(x), x @ hadamard_matrix(64, torch.float64))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**31))
def test_twice_is_the_identity_and_lengths_stay(exponent: int, seed: int) -> None:
    x = torch.randn(2, 3, 1 << exponent, generator=torch.Generator().manual_seed(seed))
    y = walsh_hadamard(x)
    torch.testing.assert_close(walsh_hadamard(y), x, atol=2e-5, rtol=0)
    torch.testing.assert_close(y.norm(), x.norm())


@pytest.mark.parametrize("length", [8, 64, 1024])
def test_gradients_are_those_of_the_butterflies(length: int) -> None:
    x = torch.randn(4, length, requires_grad=True)
    weight = torch.randn(4, length)
    (ours,) = torch.autograd.grad((walsh_hadamard(x).sin() * weight).sum(), x)
    (plain,) = torch.autograd.grad((walsh_hadamard_plain(x).sin() * weight).sum(), x)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    double = (
        x.detach()[:1, :16].double().requires_grad_() if length > 8 else torch.randn(1, 4).double().requires_grad_()
    )
    assert torch.autograd.gradcheck(walsh_hadamard, (double,))


def test_the_result_may_replace_its_input_and_rows_may_be_strided() -> None:
    x = torch.randn(512, 40).T
    wanted = walsh_hadamard_plain(x)
    torch.testing.assert_close(walsh_hadamard(x), wanted, atol=2e-5, rtol=0)
    y = x.contiguous()
    walsh_hadamard(y, out=y)
    torch.testing.assert_close(y, wanted, atol=2e-5, rtol=0)
    flat = torch.randn(1025)
    torch.testing.assert_close(walsh_hadamard(flat[1:]), walsh_hadamard_plain(flat[1:]), atol=2e-5, rtol=0)


def test_threads_share_the_rows() -> None:
    before = torch.get_num_threads()
    x = torch.randn(131, 4096)
    wanted = walsh_hadamard(x)
    try:
        torch.set_num_threads(3)
        assert torch.equal(walsh_hadamard(x), wanted)
    finally:
        torch.set_num_threads(before)


def test_a_forked_process_makes_threads_of_its_own() -> None:
    test_threads_share_the_rows()
    before = module._pool
    assert before is not None
    # what the interpreter calls in the child after a fork.
    module._forget_executor()
    assert module._pool is None
    test_threads_share_the_rows()
    assert module._pool is not before
    before.shutdown()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_numbers_that_are_not_finite_stay_so(dtype: torch.dtype) -> None:
    x = torch.randn(2, 512).to(dtype)
    x[0, 3] = torch.nan
    y = walsh_hadamard(x)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


def test_rounding_on_the_bits_is_rounding_to_nearest_even(monkeypatch: pytest.MonkeyPatch) -> None:
    # where the processor rounds by itself, the other way must be built by hand.
    from numba import njit

    from rhapsode.ops.sketch import walsh_hadamard_kernel as kernel

    monkeypatch.setattr(kernel, "_NATIVE_BFLOAT16", False)
    one = kernel.np.float32(1)
    codelet = kernel.codelet

    @njit
    def round_all(source, target):  # type: ignore[no-untyped-def]
        for start in range(0, source.size, 16):
            codelet(source, start, 16, target, start, 16, one, 1, 1)

    x = torch.cat((torch.randn(4064) * 100, torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38] * 8)))
    out = torch.zeros(len(x), dtype=torch.bfloat16)
    round_all(x.numpy(), out.view(torch.uint16).numpy())
    torch.testing.assert_close(out, x.bfloat16(), atol=0, rtol=0, equal_nan=True)


def test_without_half_instructions_float32_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 64).half()
    wanted = walsh_hadamard(x)
    monkeypatch.setattr(module.kernel, "NATIVE_FLOAT16", False)
    torch.testing.assert_close(walsh_hadamard(x), wanted, atol=8e-3, rtol=0)


@pytest.mark.parametrize(("length", "near"), [(3, "2 or 4"), (1000, "512 or 1024"), (0, "1")])
def test_other_lengths_are_refused(length: int, near: str) -> None:
    with pytest.raises(UserError, match=f"power of two; got {length}. .* to {near}"):
        walsh_hadamard(torch.zeros(2, length))


def test_integers_are_refused() -> None:
    with pytest.raises(UserError, match="x must hold floating-point numbers"):
        # past the checker of the tests, which would refuse it first.
        getattr(walsh_hadamard, "__wrapped__", walsh_hadamard)(torch.zeros(2, 4, dtype=torch.int64))


def test_an_output_that_does_not_fit_is_refused() -> None:
    x = torch.randn(4, 16)
    with pytest.raises(UserError, match="out must be a contiguous"):
        walsh_hadamard(x, out=torch.empty(4, 16, dtype=torch.float64).T.contiguous().T)
    with pytest.raises(UserError, match="out must be left out"):
        walsh_hadamard(x.requires_grad_(), out=torch.empty(4, 16))


def test_next_power_of_two() -> None:
    assert [next_power_of_two(n) for n in (1, 2, 3, 4097)] == [1, 2, 4, 8192]

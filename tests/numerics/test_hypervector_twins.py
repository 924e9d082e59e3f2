"""The fast verbs against their definitions, values and gradients, and keys against plain integers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.ops.hypervector import ALGEBRAS, POSITIONS, Holographic, SignFlip, bind_plain, unbind_plain
from rhapsode.ops.key_codes import key_codes, key_signs, key_words_plain

IDS = st.lists(st.integers(0, 2**62), min_size=1, max_size=5)
KINDS = sorted(ALGEBRAS)
EXACT = ["holographic", "sign_flip"]


@given(ids=IDS, seed=st.integers(0, 2**70), stream=st.integers(0, 5), count=st.integers(1, 130))
def test_codes_and_signs_are_those_of_plain_integers(ids: list[int], seed: int, stream: int, count: int) -> None:
    codes = key_codes(torch.tensor(ids), count, seed, stream)
    signs = key_signs(torch.tensor(ids), count, seed, stream)
    for row, sign_row, identity in zip(codes.tolist(), signs.tolist(), ids, strict=True):
        words = key_words_plain(identity, count, seed, stream)
        assert row == [(words[i // 4] >> 16 * (i % 4)) & 0xFFFF for i in range(count)]
        assert sign_row == [1.0 - 2.0 * ((words[i // 64] >> i % 64) & 1) for i in range(count)]


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 129])
def test_binding_and_unbinding_are_their_definitions(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    a, b = (torch.randn(3, 4, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    algebra = Holographic(dim)
    # rounding of float64 over at most 129 terms.
    torch.testing.assert_close(algebra.bind(a, b), bind_plain(a, b), rtol=0, atol=1e-12)
    torch.testing.assert_close(algebra.unbind(a, b), unbind_plain(a, b), rtol=0, atol=1e-12)
    torch.testing.assert_close(SignFlip(dim).bind(a, b), a * b, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [6, 9])
def test_gradients_are_those_of_finite_differences(kind: str, dim: int) -> None:
    algebra = ALGEBRAS[kind](dim)
    generator = torch.Generator().manual_seed(dim)
    a, b = (torch.randn(2, dim, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for verb in (algebra.bind, algebra.unbind):
        assert torch.autograd.gradcheck(verb, (a, b))
    assert torch.autograd.gradcheck(lambda x: algebra.permute(algebra.bundle(x), 2), (a,))


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("dim", [8, 33, 256])
def test_unbinding_undoes_binding(kind: str, dim: int) -> None:
    algebra = ALGEBRAS[kind](dim, seed=3)
    keys = algebra.keys(torch.arange(20))
    value = torch.randn(20, dim, generator=torch.Generator().manual_seed(0))
    # float32 through two transforms of at most 256 terms.
    torch.testing.assert_close(algebra.unbind(algebra.bind(value, keys), keys), value, rtol=0, atol=1e-5)
    torch.testing.assert_close(algebra.bind(value, keys).norm(dim=-1), value.norm(dim=-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_do_not_depend_on_company_order_or_shape(kind: str) -> None:
    algebra = ALGEBRAS[kind](48, seed=11)
    ids = torch.randint(0, 1_000_000, (3, 5), generator=torch.Generator().manual_seed(1))
    together = algebra.keys(ids)
    assert together.shape == (3, 5, 48)
    assert together.dtype == torch.float32
    for i in range(3):
        for j in range(5):
            assert torch.equal(algebra.keys(ids[i, j]), together[i, j])
    assert torch.equal(algebra.keys(ids.int().flip(0)), together.flip(0))


@pytest.mark.parametrize("kind", KINDS)
def test_keys_differ_by_seed_stream_and_id(kind: str) -> None:
    make = ALGEBRAS[kind]
    ids = torch.arange(200)
    tokens = make(512, 0).keys(ids)
    for other in (make(512, 1).keys(ids), make(512, 0, POSITIONS).keys(ids), tokens.roll(1, 0)):
        cosines = torch.cosine_similarity(tokens, other, dim=-1)
        # the standard deviation of a cosine of independent keys is 1 / sqrt(512) = 0.044; five of them.
        assert cosines.abs().max() < 0.23
        assert cosines.mean().abs() < 5 * 0.0442 / 200**0.5


def test_gaussian_keys_are_normal_and_only_nearly_undone() -> None:
    algebra = ALGEBRAS["gaussian"](256, seed=1)
    keys = algebra.keys(torch.arange(400))
    # 102,400 numbers: the mean's deviation is 0.003 and the variance's 0.0044 of itself; five of each.
    assert keys.mean().abs() * 16 < 0.016
    assert keys.var() * 256 == pytest.approx(1.0, abs=0.022)
    value = torch.randn(400, 256, generator=torch.Generator().manual_seed(0))
    read = algebra.unbind(algebra.bind(value, keys), keys)
    # each frequency comes back times |K|^2, exponential of mean 1: the cosine tends to 1 / sqrt(2).
    assert torch.cosine_similarity(read, value).mean() == pytest.approx(0.5**0.5, abs=0.02)


def test_low_precision_is_computed_in_float32() -> None:
    a, b = (torch.randn(4, 64, generator=torch.Generator().manual_seed(i)) for i in range(2))
    for algebra in (Holographic(64), SignFlip(64)):
        low = algebra.bind(a.bfloat16(), b.bfloat16())
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, algebra.bind(a.bfloat16().float(), b.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_cleanup_finds_the_nearest_in_any_chunks(kind: str) -> None:
    algebra = ALGEBRAS[kind](64, seed=5)
    candidates = algebra.keys(torch.arange(101))
    vectors = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(2))
    expected = (vectors @ candidates.T).argmax(-1)
    for chunk_size in (1, 7, 101, 1000):
        assert torch.equal(algebra.cleanup(vectors, candidates, chunk_size), expected)
    assert torch.equal(algebra.cleanup(candidates, candidates), torch.arange(101))


def test_permuting_back_gives_the_same() -> None:
    vectors = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    algebra = SignFlip(10)
    assert torch.equal(algebra.permute(algebra.permute(vectors, 3), -3), vectors)
    assert torch.equal(algebra.permute(vectors, 1)[:, 1:], vectors[:, :-1])


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, seed and stream at least 0; got 0, 0 and 0"):
        Holographic(0)
    with pytest.raises(ValueError, match="cleanup needs at least one candidate; got none"):
        SignFlip(4).cleanup(torch.ones(1, 4), torch.ones(0, 4))

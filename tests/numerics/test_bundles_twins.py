"""Bundles of tokens, added age by age, against the algebra's verbs; unbinding against rolling; the capacity table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhapsode.nn.config import NUMBERS_PER_TOKEN, expected_recovery
from rhapsode.ops.bundles import (
    age_bundle,
    encode_bundle,
    encode_bundle_plain,
    half_life_decay,
    token_keys,
    unbind_ages,
)
from rhapsode.ops.hypervector import ALGEBRAS, Algebra

VOCAB = 50
every_algebra = pytest.mark.parametrize("kind", ALGEBRAS)


def make_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def make_keys(kind: str, dim: int) -> tuple[Algebra, Tensor]:
    algebra = ALGEBRAS[kind](dim, seed=3)
    return algebra, token_keys(algebra, torch.arange(VOCAB))


@every_algebra
@pytest.mark.parametrize(("dim", "length", "decay"), [(16, 5, 1.0), (7, 19, 0.9), (32, 1, 0.5), (8, 0, 1.0)])
def test_encoding_equals_the_verbs(kind: str, dim: int, length: int, decay: float) -> None:
    algebra, keys = make_keys(kind, dim)
    ids = make_ids(3, length)
    # sums of up to 19 numbers of size one.
    torch.testing.assert_close(
        encode_bundle(keys, ids, decay), encode_bundle_plain(algebra, ids, decay), rtol=1e-5, atol=1e-5
    )


@every_algebra
def test_two_stretches_of_a_stream_add_up(kind: str) -> None:
    _, keys = make_keys(kind, 24)
    ids = make_ids(2, 13)
    decay = half_life_decay(5.0)
    joined = age_bundle(encode_bundle(keys, ids[:, :9], decay), 4, decay) + encode_bundle(keys, ids[:, 9:], decay)
    torch.testing.assert_close(joined, encode_bundle(keys, ids, decay), rtol=1e-5, atol=1e-6)


@every_algebra
def test_unbinding_is_rolling_back(kind: str) -> None:
    _, keys = make_keys(kind, 12)
    bundles = encode_bundle(keys, make_ids(4, 6)).view(2, 2, 12)
    ages = torch.tensor([0, 3, 5])
    found = unbind_ages(bundles, ages)
    for index, age in enumerate(ages.tolist()):
        assert torch.equal(found[:, :, index], bundles.roll(-age, dims=-1))


@every_algebra
def test_padding_leaves_no_trace(kind: str) -> None:
    _, keys = make_keys(kind, 24)
    ids = 1 + make_ids(2, 6) % (VOCAB - 1)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), ids], dim=1)
    assert torch.equal(encode_bundle(keys, padded), encode_bundle(keys, ids))


def test_tokens_come_back_within_the_capacity() -> None:
    algebra = ALGEBRAS["holographic"](1024, seed=0)
    keys = token_keys(algebra, torch.arange(1000))
    ids = torch.randint(1, 1000, (20, 1024 // NUMBERS_PER_TOKEN), generator=torch.Generator().manual_seed(1))
    ages = torch.arange(ids.shape[1] - 1, -1, -1)
    found = algebra.cleanup(unbind_ages(encode_bundle(keys, ids)[:, None], ages)[:, 0], keys)
    least, _ = expected_recovery(1024, ids.shape[1])
    assert (found == ids).float().mean() >= least


@settings(max_examples=50, deadline=None)
@given(hd_dim=st.integers(1, 10_000), tokens=st.integers(1, 500))
def test_expected_recovery_is_a_share_that_falls_with_tokens(hd_dim: int, tokens: int) -> None:
    least, most = expected_recovery(hd_dim, tokens)
    assert 0 <= least <= most <= 1
    assert expected_recovery(hd_dim, tokens + 1)[0] <= least
    assert expected_recovery(64 * tokens, tokens) == (1.0, 1.0)

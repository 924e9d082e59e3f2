"""CountSketch, block SRHT and sparse signs: linear, equal to their matrices, unbiased, with small variance."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.sketch.count_sketch import CountSketch
from rhapsode.ops.sketch.hashing import mix, mix_plain, random_subset
from rhapsode.ops.sketch.sparse_sign import SparseSign
from rhapsode.ops.sketch.srht import BlockSRHT

WIDTH, BUCKETS, SEEDS = 300, 64, 400
Map = Callable[[Tensor], Tensor]
MAKERS: dict[str, Callable[[int], Map]] = {
    "one hash": lambda seed: CountSketch(BUCKETS, 1, seed).tables(WIDTH).dense,
    "four hashes": lambda seed: CountSketch(BUCKETS, 4, seed).tables(WIDTH).dense,
    "one block": lambda seed: BlockSRHT(WIDTH, BUCKETS, 512, seed).project,
    "five blocks": lambda seed: BlockSRHT(WIDTH, BUCKETS, 64, seed).project,
    "three blocks": lambda seed: BlockSRHT(WIDTH, BUCKETS, 128, seed).project,
    "sparse signs": lambda seed: SparseSign(WIDTH, BUCKETS, 1 / 3, seed).project,
}


def make_pair(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, WIDTH, generator=generator)
    if kind == "sparse":
        # the worst case: coordinates that blocks hold at the same place, and nothing to average over.
        x = torch.zeros(2, WIDTH)
        x[0, [0, 128, 256]] = 1
        x[1, [0, 128, 64]] = 1
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("name", MAKERS)
def test_inner_products_are_unbiased_with_small_variance(name: str, kind: str) -> None:
    x = make_pair(kind)
    exact = float(x[0] @ x[1])
    products = torch.stack([MAKERS[name](seed)(x) for seed in range(SEEDS)])
    found = (products[:, 0] * products[:, 1]).sum(1)
    # the mean within four of its own errors; the variance under (1 + <x, y>^2) / M, which holds for all, with room for
    # what 400 seeds leave open (a relative error of sqrt(2 / 400), more with heavy tails: three times 20 %).
    bound = (1 + exact**2) / BUCKETS
    assert abs(float(found.mean()) - exact) < 4 * (bound / SEEDS) ** 0.5
    assert float(found.var()) < 1.6 * bound


@pytest.mark.parametrize("name", MAKERS)
def test_maps_are_linear(name: str) -> None:
    project = MAKERS[name](3)
    x, y = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(project(2 * x - 3 * y), 2 * project(x) - 3 * project(y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_hashes", [1, 2, 4])
def test_dense_and_sparse_sketches_are_the_matrix(num_hashes: int) -> None:
    sketch = CountSketch(BUCKETS, num_hashes, seed=5)
    tables = sketch.tables(WIDTH)
    ids = torch.randint(-1, WIDTH, (6, 40))
    values = torch.randn(6, 40, requires_grad=True)
    x = torch.zeros(6, WIDTH + 1).scatter_add(1, torch.where(ids < 0, WIDTH, ids), values)[:, :WIDTH]
    wanted = x @ tables.matrix()
    torch.testing.assert_close(tables.dense(x), wanted)
    torch.testing.assert_close(sketch.sparse(ids, values), wanted)
    weight = torch.randn(6, BUCKETS)
    gradients = [
        torch.autograd.grad((y * weight).sum(), values, retain_graph=True)[0]
        for y in (wanted, sketch.sparse(ids, values))
    ]
    torch.testing.assert_close(*gradients)


def test_one_for_every_id_if_there_are_no_values() -> None:
    sketch = CountSketch(BUCKETS, 2)
    ids = torch.tensor([[10**15, 3, 3, -1]])
    torch.testing.assert_close(sketch.sparse(ids), sketch.sparse(ids, torch.ones(1, 4)))


@pytest.mark.parametrize(("width", "size"), [(300, 64), (300, 512), (64, 64), (1, 16)])
def test_block_srht_is_its_matrix(width: int, size: int) -> None:
    srht = BlockSRHT(width, min(size, 40), size, seed=2)
    x = torch.randn(5, width, requires_grad=True)
    y, wanted = srht.project(x), x @ srht.matrix()
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(y)
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_whole_block_keeps_lengths_exactly() -> None:
    x = torch.randn(4, 128)
    torch.testing.assert_close(BlockSRHT(128, 128).project(x).norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize("name", ["one block", "three blocks", "sparse signs"])
def test_half_precision_in_and_out_with_wide_sums(name: str) -> None:
    x = torch.randn(4, WIDTH).half()
    y = MAKERS[name](1)(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, MAKERS[name](1)(x.float()).half(), atol=4e-3, rtol=0)


def test_a_bucket_sums_more_halves_than_a_half_can_count() -> None:
    # 4,096 ones in one bucket: a float16 sum would stop at 2,048.
    tables = CountSketch(1, 1).tables(4096)
    x = tables.weights[0].sign().half().unsqueeze(0)
    assert float(tables.dense(x)) == 4096


def test_views_of_different_seeds_are_independent() -> None:
    x = torch.randn(1, WIDTH)
    one, two = (BlockSRHT(WIDTH, BUCKETS, 512, seed).project(x)[0] for seed in (0, 1))
    # the cosine of independent vectors is about N(0, 1/64).
    assert abs(float(torch.cosine_similarity(one, two, 0))) < 4 / 8


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8), st.integers(0, 2**31))
def test_the_hash_is_that_of_plain_python(values: list[int], seed: int) -> None:
    assert mix(torch.tensor(values), seed).tolist() == [mix_plain(value % 2**64, seed) for value in values]


def test_a_subset_has_no_repetition() -> None:
    rows = random_subset(100, 60, 3)
    assert len(set(rows.tolist())) == 60
    assert 0 <= int(rows.min()) <= int(rows.max()) < 100


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="num_buckets must be a positive multiple"):
        CountSketch(10, 3)
    with pytest.raises(UserError, match="block_size must be a power of two of at least out_dim = 40; got 32"):
        BlockSRHT(100, 40, 32)
    with pytest.raises(UserError, match="must be at least 1"):
        BlockSRHT(0, 4)
    with pytest.raises(UserError, match="density must be above 0"):
        SparseSign(4, 4, 0)
    for project in (CountSketch(4).tables(5).dense, BlockSRHT(5, 4).project, SparseSign(5, 4).project):
        with pytest.raises(UserError, match="x must have 5 columns; got 6"):
            project(torch.zeros(1, 6))

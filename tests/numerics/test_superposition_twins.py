"""Reading a store of bundles: fast against plain, values and gradients, and reading against superposing."""

import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.ops.hypervector import ALGEBRAS
from rhapsode.ops.superposition import read, read_plain, route, superpose

KINDS = sorted(ALGEBRAS)
SHAPES = [(1, 1, 5, 6), (3, 2, 11, 9), (11, 1, 11, 4), (7, 3, 20, 1)]


def make_ids(vocab_size: int, count: int = 17) -> torch.Tensor:
    return torch.randint(0, vocab_size, (count,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bundles", "hashes", "vocab_size", "dim"), SHAPES)
def test_reading_is_its_definition(kind: str, bundles: int, hashes: int, vocab_size: int, dim: int) -> None:
    algebra, routes = ALGEBRAS[kind](dim, 5), route(vocab_size, bundles, hashes, 5)
    store = torch.randn(bundles, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast, plain = store.clone().requires_grad_(True), store.clone().requires_grad_(True)
    ids = make_ids(vocab_size)
    rows, expected = read(fast, ids, routes, algebra), read_plain(plain, ids, routes, algebra)
    # keys are float32 numbers, and their spectra are transformed once more in the plain twin.
    torch.testing.assert_close(rows, expected, rtol=0, atol=2e-6)
    weights = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (rows * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(fast.grad, plain.grad, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    algebra, routes, ids = ALGEBRAS[kind](7, 1), route(9, 4, 2, 1), make_ids(9, 5)
    store = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: read(x, ids, routes, algebra), (store,))


@pytest.mark.parametrize("kind", KINDS)
def test_superposing_is_the_transpose_of_reading(kind: str) -> None:
    algebra, routes, ids = ALGEBRAS[kind](12, 3), route(30, 5, 2, 3), make_ids(30)
    store, vectors = (
        torch.randn(n, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (5, len(ids))
    )
    inside = (read(store, ids, routes, algebra) * vectors).sum()
    outside = (store * superpose(vectors, ids, routes, 5, algebra)).sum()
    assert inside.item() == pytest.approx(outside.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["holographic", "sign_flip"])
def test_alone_in_its_rows_a_vector_comes_back(kind: str) -> None:
    for hashes in (1, 3):
        algebra, routes = ALGEBRAS[kind](16, 2), route(12, 12, hashes, 2)
        one = torch.tensor([7])
        vector = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
        found = read(superpose(vector, one, routes, 12, algebra), one, routes, algebra)
        # float32 through two transforms.
        torch.testing.assert_close(found, vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("vocab_size", "bundles", "hashes"), [(100, 7, 1), (1000, 64, 3), (5, 5, 5), (50, 50, 1)])
def test_routes_are_balanced_and_different(vocab_size: int, bundles: int, hashes: int) -> None:
    routes = route(vocab_size, bundles, hashes, 0)
    assert routes.shape == (vocab_size, hashes)
    for group in range(hashes):
        first, end = bundles * group // hashes, bundles * (group + 1) // hashes
        loads = torch.bincount(routes[:, group], minlength=bundles)
        assert loads.sum() == loads[first:end].sum() == vocab_size
        assert loads[first:end].max() - loads[first:end].min() <= 1
    assert all(len(set(row)) == hashes for row in routes.tolist())
    assert torch.equal(routes, route(vocab_size, bundles, hashes, 0))
    if bundles > hashes:
        assert not torch.equal(routes, route(vocab_size, bundles, hashes, 1))


def test_many_distinct_ids_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    algebra, routes, ids = ALGEBRAS["holographic"](8, 0), route(40, 6, 1, 0), torch.arange(40)
    store = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    whole = read(store, ids, routes, algebra), superpose(whole_vectors := store[routes[:, 0]], ids, routes, 6, algebra)
    monkeypatch.setattr("rhapsode.ops.superposition._CHUNK", 7)
    assert torch.equal(read(store, ids, routes, algebra), whole[0])
    # the same sums in another order.
    torch.testing.assert_close(superpose(whole_vectors, ids, routes, 6, algebra), whole[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ids", [[3, 40], [-1, 2]])
def test_ids_beyond_the_vocabulary_are_refused(ids: list[int]) -> None:
    routes = route(40, 6, 1, 0)
    with pytest.raises(UserError, match=r"token ids must be from 0 to 39, the vocabulary of the embedding; got "):
        read(torch.ones(6, 8), torch.tensor(ids), routes, ALGEBRAS["holographic"](8, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_operations_and_the_direct_calls_are_the_same_bits(kind: str) -> None:
    algebra, routes, ids = ALGEBRAS[kind](12, 3), route(30, 5, 2, 3), make_ids(30)
    store, vectors = (torch.randn(n, 12, generator=torch.Generator().manual_seed(n)) for n in (5, len(ids)))
    direct = read(store, ids, routes, algebra), superpose(vectors, ids, routes, 5, algebra)
    registered = (
        read(store.requires_grad_(True), ids, routes, algebra),
        superpose(vectors.requires_grad_(True), ids, routes, 5, algebra),
    )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(direct, registered, strict=True))

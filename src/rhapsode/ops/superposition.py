"""Many vectors in few rows: each is bound to a key of its own and added to the rows it is routed to.

Superposed parameters (Cheung et al. 2019, arXiv 1902.05522) with keys that are regenerated, never stored. Reading is
linear in the store, superposing is the transpose of reading, and so it is also the gradient of reading. Both are opaque
to the compiler, which cannot handle complex numbers, and add in an order that is the same on every run.

Shapes: L rows, D numbers a row, C ids in all, k rows an id.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.hypervector import ALGEBRAS, Algebra
from rhapsode.ops.key_codes import key_words
from rhapsode.ops.opaque import needs_operation

_ROUTES = 1_000
_CHUNK = 8_192


def route(vocab_size: int, num_bundles: int, num_hashes: int, seed: int) -> Int[Tensor, "C k"]:
    """Return the rows of every id, int64: k different ones, with loads as equal as can be.

    The rows are cut into k groups. In each, ids are sorted by a salted hash and dealt out evenly, so that the loads of
    a group differ by at most one. A pure function of its arguments. Costs O(k C log C).
    """
    ids = torch.arange(vocab_size)
    columns = []
    for group in range(num_hashes):
        first, end = (num_bundles * edge // num_hashes for edge in (group, group + 1))
        order = torch.argsort(key_words(ids, 1, seed, _ROUTES + group)[:, 0], stable=True)
        rank = torch.empty_like(order).scatter_(0, order, ids)
        columns.append(first + rank * (end - first) // vocab_size)
    return torch.stack(columns, dim=1)


def read(
    store: Float[Tensor, "L D"], ids: Int[Tensor, " N"], routes: Int[Tensor, "C k"], algebra: Algebra
) -> Float[Tensor, "N D"]:
    """Return what each id finds: sum_j unbind(store[route_j(id)], key_j(id)) / sqrt(k), float32 or wider.

    Differentiable in the store. Only distinct ids are unbound, a chunk at a time: O(k U D log D) for U of them.

    Raises:
        UserError: if an id is negative or beyond the routes.
    """
    read = _read_operation if needs_operation(store) else _read
    rows: Tensor = read(store, ids, routes, algebra.kind, algebra.seed)
    return rows


def read_plain(
    store: Float[Tensor, "L D"], ids: Int[Tensor, " N"], routes: Int[Tensor, "C k"], algebra: Algebra
) -> Float[Tensor, "N D"]:
    """The same id by id, with plain verbs and the gradient of autograd."""
    num_hashes = routes.shape[1]
    found = [
        algebra.unbind(store[routes[i, j]], algebra.keys(i * num_hashes + j)) for i in ids for j in range(num_hashes)
    ]
    return torch.stack(found).view(len(ids), num_hashes, -1).sum(1) / math.sqrt(num_hashes)


def superpose(
    vectors: Float[Tensor, "N D"],
    ids: Int[Tensor, " N"],
    routes: Int[Tensor, "C k"],
    num_bundles: int,
    algebra: Algebra,
) -> Float[Tensor, "L D"]:
    """Return the store in closed form: bind(vector, key_j(id)) / sqrt(k) added to row route_j(id).

    Reading it gives each vector back plus the noise of the C k / L others in its rows. Transpose of `read`.
    """
    superposed = _superpose_operation if needs_operation(vectors) else _superpose
    store: Tensor = superposed(vectors, ids, routes, num_bundles, algebra.kind, algebra.seed)
    return store


def _read(store: torch.Tensor, ids: torch.Tensor, routes: torch.Tensor, kind: str, seed: int) -> torch.Tensor:
    algebra = ALGEBRAS[kind](store.shape[1], seed)
    distinct, places = _distinct(ids, len(routes))
    spectra = algebra.to_spectra(store)
    found = []
    for part in torch.split(distinct, _CHUNK) if len(distinct) else ():
        rows = sum(spectra[rows] * keys.conj() for rows, keys in _bound(part, routes, algebra))
        assert isinstance(rows, Tensor)
        found.append(algebra.from_spectra(rows))
    out = torch.cat(found) if len(distinct) else store.new_zeros(0, store.shape[1], dtype=_wide(store.dtype))
    return out[places] / math.sqrt(routes.shape[1])


def _superpose(
    vectors: torch.Tensor, ids: torch.Tensor, routes: torch.Tensor, num_bundles: int, kind: str, seed: int
) -> torch.Tensor:
    algebra = ALGEBRAS[kind](vectors.shape[1], seed)
    distinct, places = _distinct(ids, len(routes))
    # every id once: its key is bound to the sum of its vectors.
    spectra = algebra.to_spectra(_scatter_add(vectors, places, len(distinct)))
    total = spectra.new_zeros(num_bundles, spectra.shape[1])
    for part, mine in zip(torch.split(distinct, _CHUNK), torch.split(spectra, _CHUNK), strict=True):
        for rows, keys in _bound(part, routes, algebra):
            total += _scatter_add(mine * keys, rows, num_bundles)
    return algebra.from_spectra(total) / math.sqrt(routes.shape[1])


def _distinct(ids: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    distinct, places = torch.unique(ids, return_inverse=True)
    if len(distinct) and (distinct[0] < 0 or distinct[-1] >= vocab_size):
        raise UserError(
            f"token ids must be from 0 to {vocab_size - 1}, the vocabulary of the embedding; got {int(distinct[0])} to "
            f"{int(distinct[-1])}. Use the tokenizer that it was made for."
        )
    return distinct, places


def _bound(ids: Tensor, routes: Tensor, algebra: Algebra) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each of the k rows of an id, its number and the key's spectrum."""
    num_hashes = routes.shape[1]
    for group in range(num_hashes):
        yield routes[ids, group], algebra.spectra(ids * num_hashes + group)


def _scatter_add(rows: Tensor, places: Tensor, count: int) -> Tensor:
    # the kernel of embedding's gradient gives each thread rows of its own: the sums come out the same every time.
    flat = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    summed: Tensor = torch.ops.aten.embedding_dense_backward(flat.contiguous(), places, count, -1, False)
    return torch.view_as_complex(summed.view(count, -1, 2)) if rows.is_complex() else summed


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


_read_operation = torch.library.custom_op("rhapsode::superposed_read", _read, mutates_args=())
_superpose_operation = torch.library.custom_op("rhapsode::superpose", _superpose, mutates_args=())


@_read_operation.register_fake
def _(store: Tensor, ids: Tensor, routes: Tensor, kind: str, seed: int) -> Tensor:
    return store.new_empty((ids.shape[0], store.shape[1]), dtype=_wide(store.dtype))


@_superpose_operation.register_fake
def _(vectors: Tensor, ids: Tensor, routes: Tensor, num_bundles: int, kind: str, seed: int) -> Tensor:
    return vectors.new_empty((num_bundles, vectors.shape[1]), dtype=_wide(vectors.dtype))


def _save(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, str, int], output: Tensor
) -> None:
    store, ids, routes, kind, seed = inputs
    ctx.save_for_backward(ids, routes)
    ctx.others = (store.shape[0], kind, seed, store.dtype)  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    ids, routes = ctx.saved_tensors  # type: ignore[attr-defined]
    num_bundles, kind, seed, dtype = ctx.others  # type: ignore[attr-defined]
    return _superpose_operation(gradient, ids, routes, num_bundles, kind, seed).to(dtype), None, None, None, None


_read_operation.register_autograd(_backward, setup_context=_save)

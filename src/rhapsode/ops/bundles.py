"""Bundles of token sequences: many tokens in one hypervector, the youngest first.

    bundle = sum_a decay^a roll(key(x_(T - a)), a)        token of age a read back: roll(bundle, -a)

Rolling by a places is binding with the unitary key that is 1 at place a and 0 elsewhere, so that a bundle grows older
by one roll and any two stretches of a stream add up. Ids of padding (0) leave no trace. Capacity of bundles: Frady,
Kleyko & Sommer 2018, arXiv 1803.00412. Shape letters: B batch, T tokens, L bundles, M hypervector size, A ages, U keys.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.ops.hypervector import Algebra

PADDING = 0


def token_keys(algebra: Algebra, ids: Int[Tensor, " U"]) -> Float[Tensor, "U M"]:
    """Return keys of norm 1, and zeros for padding."""
    keys = algebra.keys(ids)
    keys = keys / torch.linalg.vector_norm(keys, dim=-1, keepdim=True)
    return torch.where((ids == PADDING)[:, None], torch.zeros_like(keys), keys)


def encode_bundle(keys: Float[Tensor, "U M"], rows: Int[Tensor, "B T"], decay: float = 1.0) -> Float[Tensor, "B M"]:
    """Return the bundle of each row of tokens. Costs O(B T M), and no memory but the result and one token's keys.

    Args:
        keys: float32, keys of some tokens.
        rows: int64, for each token the row of its key; the last is the youngest.
        decay: factor on a token for each one after it, in (0, 1].
    """
    size = keys.shape[1]
    bundle = keys.new_zeros(rows.shape[0], size)
    for age in range(rows.shape[1]):
        vectors = keys[rows[:, rows.shape[1] - 1 - age]]
        shift, weight = age % size, decay**age
        bundle[:, shift:].add_(vectors[:, : size - shift], alpha=weight)
        bundle[:, :shift].add_(vectors[:, size - shift :], alpha=weight)
    return bundle


def encode_bundle_plain(algebra: Algebra, ids: Int[Tensor, "B T"], decay: float = 1.0) -> Float[Tensor, "B M"]:
    """The same by the algebra's verbs, one token after another: age all, add the next."""
    bundle = torch.zeros(ids.shape[0], algebra.dim)
    for t in range(ids.shape[1]):
        bundle = decay * algebra.permute(bundle) + token_keys(algebra, ids[:, t])
    return bundle


def age_bundle(bundle: Float[Tensor, "*B M"], steps: int, decay: float = 1.0) -> Float[Tensor, "*B M"]:
    """Return the bundle as it is `steps` tokens later, without these tokens."""
    return bundle.roll(steps, dims=-1) * decay**steps


def unbind_ages(bundles: Float[Tensor, "B L M"], ages: Int[Tensor, " A"]) -> Float[Tensor, "B L A M"]:
    """Return, for each bundle and age, the key of the token of that age, plus noise from all others."""
    size = bundles.shape[-1]
    places = (torch.arange(size, device=bundles.device) + ages[:, None]) % size
    return bundles[..., places]


def half_life_decay(half_life: float) -> float:
    """Return the factor a token that halves every `half_life` tokens.

    >>> round(half_life_decay(2.0) ** 2, 6)
    0.5
    """
    return float(0.5 ** (1.0 / half_life))

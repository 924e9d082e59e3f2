"""Hash the n-gram that ends at each position into a bucket, for hashed n-gram embeddings."""

import torch
from jaxtyping import Int
from torch import Tensor

# a prime below 2^31: a product of two residues stays inside int64.
_PRIME = 2_147_483_647
_MULTIPLIER = 1_000_003


def hash_ngrams(ids: Int[Tensor, "B T"], order: int, num_buckets: int) -> Int[Tensor, "B P"]:
    """Return the bucket of the `order` ids that end at each position, for P = T - order + 1 positions.

    Polynomial rolling hash modulo 2^31 - 1, then modulo `num_buckets` (as in Svenstrup et al. 2017,
    arXiv 1709.03933, with one hash). Position p covers ids[p : p + order].
    """
    positions = ids.shape[1] - order + 1
    value = torch.full_like(ids[:, :positions], order)
    for offset in range(order):
        value = (value * _MULTIPLIER + ids[:, offset : offset + positions] + 1) % _PRIME
    return value % num_buckets


def hash_ngram_plain(ids: list[int], num_buckets: int) -> int:
    """The same for one n-gram, in plain Python; the twin that tests compare."""
    value = len(ids)
    for token in ids:
        value = (value * _MULTIPLIER + token + 1) % _PRIME
    return value % num_buckets

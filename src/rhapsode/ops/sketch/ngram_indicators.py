"""Which n-grams a window holds and which id stands where, as sparse binary coordinates.

They join the raw vector before the sketch, so that windows of the same tokens in another order lie apart.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.ops.sketch.hashing import mix

PADDING = -1


@dataclass(frozen=True)
class BloomNgrams:
    """A Bloom filter (Bloom 1970) a window, of its n-grams of several orders.

    Every distinct n-gram sets `num_hashes` of `num_bits` bits. An n-gram of the window is always found; another is
    found with the false-positive rate.

    Raises:
        UserError: if a size is below 1.
    """

    num_bits: int
    orders: tuple[int, ...] = (1, 2, 3)
    num_hashes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_bits < 1 or self.num_hashes < 1 or not self.orders or min(self.orders) < 1:
            raise UserError(
                "num_bits, num_hashes and every order must be at least 1; got "
                f"{self.num_bits}, {self.num_hashes} and {self.orders}."
            )

    def bits(self, window: Int64[Tensor, "B W"]) -> Int64[Tensor, "B K"]:
        """Return the set bits of each window in ascending order, each once, filled up with -1 at the front.

        K = num_hashes times the number of n-grams. Ids of -1 are no tokens, and an n-gram that holds one is none.
        """
        found = [self._probes(_ngram_keys(window, order), order).flatten(1) for order in self.orders]
        ordered = torch.cat([part for part in found if part.shape[1]] or [window[:, :0]], 1).sort(1).values
        repeated = torch.zeros_like(ordered, dtype=torch.bool)
        repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return ordered.masked_fill(repeated, PADDING).sort(1).values

    def contains(self, bits: Int64[Tensor, "B K"], ngrams: Int64[Tensor, "B Q n"]) -> Bool[Tensor, "B Q"]:
        """Say of each n-gram whether all its bits are among `bits`: no false negatives."""
        order = ngrams.shape[2]
        flat = ngrams.reshape(-1, order)
        probes = self._probes(_ngram_keys(flat, order), order).reshape(*ngrams.shape[:2], self.num_hashes)
        filled = torch.zeros(len(bits), self.num_bits + 1, dtype=torch.bool, device=bits.device)
        filled.scatter_(1, torch.where(bits < 0, self.num_bits, bits), True)
        return filled.gather(1, probes.flatten(1)).reshape(probes.shape).all(-1)

    def false_positive_rate(self, bits: Int64[Tensor, "B K"]) -> Float[Tensor, " B"]:
        """Return (share of set bits)^num_hashes: how often each filter says yes to an n-gram it does not hold."""
        return ((bits >= 0).sum(1) / self.num_bits) ** self.num_hashes

    def expected_false_positive_rate(self, num_ngrams: int) -> float:
        """Return the textbook rate (1 - exp(-k n / m))^k after n distinct n-grams."""
        return (1 - math.exp(-self.num_hashes * num_ngrams / self.num_bits)) ** self.num_hashes

    def _probes(self, keys: Int64[Tensor, "B P"], order: int) -> Int64[Tensor, "B P h"]:
        hashes = [mix(keys, self.seed * 64 + 16 * order + 1 + h) % self.num_bits for h in range(self.num_hashes)]
        return torch.where((keys < 0).unsqueeze(-1), PADDING, torch.stack(hashes, -1))


@dataclass(frozen=True)
class OrderHashes:
    """One coordinate for each position of a window: the hash of its id and its distance from the end.

    Raises:
        UserError: if `num_slots` is below 1.
    """

    num_slots: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_slots < 1:
            raise UserError(f"num_slots must be at least 1; got {self.num_slots}.")

    def slots(self, window: Int64[Tensor, "B W"]) -> Int64[Tensor, "B W"]:
        """Return the slot of each position, -1 where the id is -1."""
        width = window.shape[1]
        distances = torch.arange(width - 1, -1, -1, device=window.device)
        keys = mix(mix(window, self.seed + 1) + distances, self.seed + 2)
        return torch.where(window < 0, PADDING, keys % self.num_slots)


def _ngram_keys(window: Int64[Tensor, "B W"], order: int) -> Int64[Tensor, "B P"]:
    """Return a hash of each n-gram from 0 on, -1 where it holds an id of -1."""
    positions = max(0, window.shape[1] - order + 1)
    key = torch.full_like(window[:, :positions], order)
    missing = torch.zeros_like(key, dtype=torch.bool)
    for offset in range(order):
        part = window[:, offset : offset + positions]
        key = mix(key + part, offset + 1)
        missing |= part < 0
    return key.masked_fill(missing, PADDING)

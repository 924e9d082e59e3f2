"""Integer hashes in tensor arithmetic: the same numbers on every device, for ids without an upper bound."""

import torch
from jaxtyping import Int64
from torch import Tensor

_WORD = 1 << 64
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(values: Int64[Tensor, "*S"], seed: int) -> Int64[Tensor, "*S"]:
    """Return 63 well mixed bits of each value, 0 to 2^63 - 1.

    The finaliser of splitmix64 (Steele et al. 2014) of value times the golden ratio plus a mixed seed; products wrap.
    """
    golden, first, second = (_signed(multiplier) for multiplier in _MULTIPLIERS)
    x = values * golden + _signed(mix_plain(seed, 0) if seed else 0)
    x = (x ^ _shift(x, 30)) * first
    x = (x ^ _shift(x, 27)) * second
    return _shift(x ^ _shift(x, 31), 1)


def mix_plain(value: int, seed: int) -> int:
    """The same for one value, in plain Python."""
    golden, first, second = _MULTIPLIERS
    x = (value * golden + (mix_plain(seed, 0) if seed else 0)) % _WORD
    x = (x ^ (x >> 30)) * first % _WORD
    x = (x ^ (x >> 27)) * second % _WORD
    return (x ^ (x >> 31)) >> 1


def random_signs(count: int, seed: int, device: torch.device | str | None = None) -> Int64[Tensor, " N"]:
    """Return `count` signs, +1 or -1."""
    return 2 * (mix(torch.arange(count, device=device), seed) >> 40 & 1) - 1


def random_subset(count: int, size: int, seed: int, device: torch.device | str | None = None) -> Int64[Tensor, " M"]:
    """Return `size` different numbers below `count`, in ascending order."""
    order: Tensor = mix(torch.arange(count, device=device), seed).argsort()[:size].sort().values
    return order


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD >> 1 else word


def _shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts signed numbers arithmetically.
    return (x >> bits) & ((1 << (64 - bits)) - 1)

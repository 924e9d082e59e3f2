"""Random bits that are a pure function of (seed, stream, id, place): keys need not be stored, only numbered.

SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195) used as a counter-based generator, as Salmon et
al. 2011 do with other functions: no state, so any id can be asked for alone, in any order, on any device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_CACHED_WORDS = 1 << 15


def key_words(ids: Int[Tensor, "*B"], count: int, seed: int, stream: int = 0) -> Int[Tensor, "*B P"]:
    """Return `count` random numbers of 63 bits for every id, int64, not negative. Costs O(B P)."""
    return _words(ids, count, seed, stream) & ((1 << 63) - 1)


def key_codes(ids: Int[Tensor, "*B"], count: int, seed: int, stream: int = 0) -> Int[Tensor, "*B P"]:
    """Return `count` numbers of 16 random bits for every id, int32 in [0, 65536). Costs O(B P)."""
    num_words = -(-count // 4)
    parts = [_words(part, num_words, seed, stream).view(torch.int16) for part in _split(ids, num_words)]
    # the same bits without their sign.
    return (torch.cat(parts)[:, :count].int() & 0xFFFF).reshape(*ids.shape, count)


def key_signs(ids: Int[Tensor, "*B"], count: int, seed: int, stream: int = 0) -> Float[Tensor, "*B P"]:
    """Return `count` random signs for every id, float32. Costs O(B P)."""
    num_words = -(-count // 64)
    places = torch.arange(8, dtype=torch.uint8, device=ids.device)
    parts = []
    for part in _split(ids, num_words):
        bits = (_words(part, num_words, seed, stream).view(torch.uint8)[..., None] >> places) & 1
        parts.append(1.0 - 2.0 * bits.flatten(1)[:, :count])
    return torch.cat(parts).reshape(*ids.shape, count)


def key_words_plain(identity: int, count: int, seed: int, stream: int = 0) -> list[int]:
    """The 64-bit words of one id in plain Python integers; the twin that tests compare."""
    row = _mix_plain(_start(seed, stream) + (identity + 1) * _GOLDEN)
    return [_mix_plain(row + (place + 1) * _GOLDEN) for place in range(count)]


def _split(ids: Tensor, num_words: int) -> tuple[Tensor, ...]:
    """Cut ids into parts whose words stay in a processor's cache."""
    return torch.split(ids.reshape(-1), max(1, _CACHED_WORDS // max(1, num_words)))


def _words(ids: Tensor, count: int, seed: int, stream: int) -> Tensor:
    """Hash the id, then the place under it; int64 multiplication wraps as the generator wants."""
    rows = _mix((ids.long() + 1) * _signed(_GOLDEN) + _signed(_start(seed, stream)))
    places = torch.arange(1, count + 1, device=ids.device) * _signed(_GOLDEN)
    return _mix(rows[..., None] + places)


def _start(seed: int, stream: int) -> int:
    return _mix_plain(_mix_plain(seed & _MASK) + (stream + 1) * _GOLDEN)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, places: int) -> Tensor:
    # torch shifts signed numbers, which drags the sign in from the left.
    return (x >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix_plain(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)

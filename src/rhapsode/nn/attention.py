"""Causal self-attention with a key-value cache, grouped heads and an optional window."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rhapsode.nn.config import AttentionConfig
from rhapsode.nn.linear import Linear
from rhapsode.nn.norm import rms_norm
from rhapsode.ops.attention import attend
from rhapsode.ops.rotary import RecentAngles, rotary_angles, rotate

_recent_angles = RecentAngles()


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the positions that later ones may still see.

    `keys` (B, G, S, K) are already rotated, `values` (B, G, S, K), `positions` int64 (S,),
    `segments` int (B, S) or None. `added` positions came with the last call. Tensors are never
    changed in place, so several continuations may share one cache.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    segments: Tensor | None
    added: int


class Attention(nn.Module):
    """Softmax attention over the last `seq_len` positions, the present one included."""

    _cosine: Tensor
    _sine: Tensor

    def __init__(self, width: int, num_heads: int, seq_len: int, config: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = config.num_kv_heads or num_heads
        self.head_dim = width // num_heads
        self.window = seq_len
        self.rotary_base = config.rotary_base if config.positions == "rotary" else None
        self.qk_norm = config.qk_norm
        kv_width = self.num_kv_heads * self.head_dim
        self.qkv = Linear(width, width, kv_width, kv_width)
        self.out = Linear(width, width)
        if self.rotary_base is not None:
            # a training step must not compute a sine for every query: the first seq_len angles are kept.
            cosine, sine = rotary_angles(torch.arange(seq_len), self.head_dim, self.rotary_base)
            self.register_buffer("_cosine", cosine, persistent=False)
            self.register_buffer("_sine", sine, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: KVCache | None = None,
        *,
        positions: Int[Tensor, " T"],
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], KVCache]:
        """Mix T positions with those in the cache; see `Mixer`. Costs O(B T S D)."""
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        # queries and keys are treated alike, so they are treated together: fewer, larger operations.
        qk, v = heads.split([self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=1)
        if self.qk_norm:
            qk = rms_norm(qk)
        if self.rotary_base is not None:
            qk = rotate(qk, self._angles(positions, fresh=state is None))
        q, k = qk.split([self.num_heads, self.num_kv_heads], dim=1)
        cache = _extend(state, k, v, positions, segments)
        if length == 1 and segments is None and cache.positions.shape[0] <= self.window:
            # a step sees all that is left in a cache no longer than the window.
            visible = None
        else:
            visible = _visible(positions, cache.positions, self.window, segments, cache.segments)
        y = attend(q, cache.keys, cache.values, visible, self.head_dim**-0.5)
        y = self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return y, _trim(cache, self.window)

    def _angles(self, positions: Tensor, *, fresh: bool) -> tuple[Tensor, Tensor]:
        length = positions.shape[0]
        if fresh and length <= self._cosine.shape[0]:
            # only distances matter, so a sequence without a past may count from 0.
            return self._cosine[:length], self._sine[:length]
        assert self.rotary_base is not None
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return rotary_angles(positions, self.head_dim, self.rotary_base)
        return _recent_angles(positions, self.head_dim, self.rotary_base)

    def rewind(self, state: KVCache, keep: int) -> KVCache:
        """Drop all but the first `keep` positions of the last call.

        The cache keeps `window` positions more than the last call brought, so what an earlier position
        could see is still there.
        """
        drop = state.added - keep
        size = state.positions.shape[0] - drop
        return KVCache(
            state.keys[:, :, :size],
            state.values[:, :, :size],
            state.positions[:size],
            None if state.segments is None else state.segments[:, :size],
            keep,
        )


class SlidingAttention(Attention):
    """Attention over `attention.window` positions instead of `seq_len`."""

    def __init__(self, width: int, num_heads: int, seq_len: int, config: AttentionConfig) -> None:
        super().__init__(width, num_heads, seq_len, config)
        self.window = min(seq_len, config.window)


def _extend(state: KVCache | None, k: Tensor, v: Tensor, positions: Tensor, segments: Tensor | None) -> KVCache:
    added = positions.shape[0]
    if state is None:
        return KVCache(k, v, positions, segments, added)
    return KVCache(
        torch.cat([state.keys, k], dim=2),
        torch.cat([state.values, v], dim=2),
        torch.cat([state.positions, positions]),
        None if segments is None or state.segments is None else torch.cat([state.segments, segments], dim=1),
        added,
    )


def _trim(state: KVCache, window: int) -> KVCache:
    """Drop the positions that no later one can see, keeping what a rewind of the last call needs."""
    size = window - 1 + state.added
    if state.positions.shape[0] <= size:
        return state
    return KVCache(
        state.keys[:, :, -size:],
        state.values[:, :, -size:],
        state.positions[-size:],
        None if state.segments is None else state.segments[:, -size:],
        state.added,
    )


def _visible(
    positions: Int[Tensor, " T"],
    stored: Int[Tensor, " S"],
    window: int,
    segments: Int[Tensor, "B T"] | None,
    stored_segments: Int[Tensor, "B S"] | None,
) -> Bool[Tensor, "b 1 T S"]:
    distance = positions[:, None] - stored[None, :]
    visible = ((distance >= 0) & (distance < window))[None, None]
    if segments is not None and stored_segments is not None:
        visible = visible & (segments[:, None, :, None] == stored_segments[:, None, None, :])
    return visible

"""Gated linear attention as a mixer: a past of any length in a state of fixed size."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.config import AttentionConfig
from rhapsode.nn.linear import Linear
from rhapsode.ops.linear_attention import MIN_LOG_DECAY, gated_linear_attention

# the paper's: rank of the map from input to decays, and the root that makes them slow.
DECAY_RANK = 16
DECAY_ROOT = 16.0
# what is read of an almost empty memory stays small, instead of rounding errors blown up to size one.
NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class LinearAttentionState:
    """The memory before and after the last call, and what that call wrote, for a rewind.

    `before`, `after` float32 (B, H, K, V); `k`, `v`, `log_decay` float32 (B, H, T, K or V) of the last call's T
    positions; `segments` int (B, T) and `before_segments` int (B,) or None. Tensors are never changed in place.
    """

    before: Tensor
    after: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    segments: Tensor | None
    before_segments: Tensor | None


class GatedLinearAttention(nn.Module):
    """Linear attention whose decay depends on the input, one decay a key (Yang et al. 2023, arXiv 2312.06635).

    Keys have half the size of values, so that a layer has about the parameters of softmax attention. It needs no
    positions. Of the attention settings it uses none but the size of a head. Departures from the paper: the output
    is normalised without a gain, and each channel's decay has a bias, spread so that half-lives begin between 2 and
    some 350 positions.
    """

    def __init__(self, width: int, num_heads: int, seq_len: int, config: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_dim = width // num_heads // 2
        keys = self.key_dim * num_heads
        rank = min(DECAY_RANK, width)
        # queries, keys, values, the output's gate, and the low-rank half of the decays read the same input.
        self.inputs = Linear(width, keys, keys, width, width, rank)
        self.decay = Linear(rank, keys)
        self.decay_bias = nn.Parameter(torch.empty(keys))
        self.out = Linear(width, width)

    @torch.no_grad()
    def init_decays(self) -> None:
        """Spread the half-lives of each head's channels."""
        self.decay_bias.copy_(torch.linspace(-5.0, 3.5, self.key_dim).repeat(self.num_heads))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: LinearAttentionState | None = None,
        *,
        positions: Int[Tensor, " T"],
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], LinearAttentionState]:
        """Mix T positions with the memory of those before; see `Mixer`. Costs O(B T D K), in float32 inside."""
        batch, length, width = x.shape
        q, k, v, gate, low = self.inputs(x).split(list(self.inputs.parts), dim=-1)
        raw = self.decay(low).float() + self.decay_bias
        log_decay = self._heads(F.logsigmoid(raw) / DECAY_ROOT).clamp(min=MIN_LOG_DECAY)
        q, k, v = (self._heads(part.float()) for part in (q, k, v))
        q = q * self.key_dim**-0.5
        before = x.new_zeros(batch, self.num_heads, k.shape[-1], v.shape[-1]).float()
        before_segments: Tensor | None = None
        if state is not None:
            before, before_segments = state.after, state.before_segments
            # a call that was taken back to its beginning has no last position.
            if state.segments is not None and state.segments.shape[1]:
                before_segments = state.segments[:, -1]
        if segments is not None and before_segments is None:
            before_segments = segments[:, 0]
        y, after = gated_linear_attention(q, k, v, log_decay, before, segments, before_segments)
        y = F.rms_norm(y, (y.shape[-1],), eps=NORM_EPSILON)
        y = y.transpose(1, 2).reshape(batch, length, width).to(x.dtype)
        out: Tensor = self.out(y * F.silu(gate))
        return out, LinearAttentionState(before, after, k, v, log_decay, segments, before_segments)

    def rewind(self, state: LinearAttentionState, keep: int) -> LinearAttentionState:
        """Replay the first `keep` positions of the last call from the memory before it. O(keep)."""
        k, v, log_decay = (part[:, :, :keep] for part in (state.k, state.v, state.log_decay))
        segments = None if state.segments is None else state.segments[:, :keep]
        after = state.before
        if keep:
            # the outputs are not wanted: any query will do.
            _, after = gated_linear_attention(k, k, v, log_decay, after, segments, state.before_segments)
        return LinearAttentionState(state.before, after, k, v, log_decay, segments, state.before_segments)

    def _heads(self, x: Float[Tensor, "B T I"]) -> Float[Tensor, "B H T K"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

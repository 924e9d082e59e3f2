"""A sentence as one vector: a small transformer that looks both ways, mean-pooled."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rhapsode.nn.block import Block
from rhapsode.nn.feedforward import GeluFeedForward
from rhapsode.nn.linear import Linear
from rhapsode.nn.norm import LayerNorm
from rhapsode.ops.attention import attend

_RATIO = 2.0
_DEVIATION = 0.02


class FullAttention(nn.Module):
    """Softmax attention over all positions of the same segment, before and after (Vaswani et al. 2017)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, width, width, width)
        self.out = Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: None = None,
        *,
        positions: Int[Tensor, " T"],
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Mix all positions; there is no state, and order is the embedding's matter. Costs O(B T^2 D)."""
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if segments is None:
            visible = x.new_ones(1, 1, length, length, dtype=torch.bool)
        else:
            visible = (segments[:, :, None] == segments[:, None, :])[:, None]
        mixed = attend(q, k, v, visible, (width // self.num_heads) ** -0.5)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width)), None


class SentenceEncoder(nn.Module):
    """Word and position embeddings, pre-norm blocks, a last norm, and the mean over the words."""

    def __init__(self, vocab_size: int, width: int, num_layers: int, num_heads: int, max_length: int) -> None:
        """Make it; see `init_weights`. `width` is divisible by `num_heads`."""
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(
            Block(width, "layer", FullAttention(width, num_heads), GeluFeedForward(width, _RATIO))
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(width)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every matrix from N(0, 0.02^2), the last of each branch narrower, as GPT-2 does."""
        for name, parameter in self.named_parameters():
            if name.endswith("gain"):
                nn.init.ones_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                last = name.endswith(("out.weight", "down.weight"))
                scale = (2 * len(self.blocks)) ** -0.5 if last else 1.0
                nn.init.normal_(parameter, std=_DEVIATION * scale, generator=generator)

    def forward(self, ids: Int[Tensor, "B T"], present: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Return a vector for every sentence.

        Args:
            ids: word ids; at most `max_length` of them.
            present: false on padding, which changes nothing; each sentence has a word.
        """
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = F.embedding(ids, self.words.weight) + self.positions(positions)
        for block in self.blocks:
            x, _ = block(x, None, positions, present.long())
        weights = present.to(x.dtype)[..., None]
        pooled: Tensor = (self.norm(x) * weights).sum(1) / weights.sum(1)
        return pooled

"""Other embeddings smaller than a table, at a chosen share of its parameters: what a new one has to beat."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.config import CompressedConfig
from rhapsode.nn.linear import Linear
from rhapsode.ops.key_codes import key_words
from rhapsode.ops.lookup import look_up


class CompressedEmbedder(nn.Module, ABC):
    """Vectors made from less than a row an id. Remembers no earlier ids."""

    context = 0
    num_factors = 1
    """Tables whose rows are multiplied."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    @abstractmethod
    def rows(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the vector of every id."""

    @property
    def table(self) -> "CompressedEmbedder":
        """What a tied head reads: `weight`."""
        return self

    @property
    def weight(self) -> Float[Tensor, "C D"]:
        """The vectors of all ids."""
        device = next(self.parameters()).device
        return self.rows(torch.arange(self.vocab_size, device=device)[None])[0]

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        past: Int[Tensor, "B 0"],
        segments: Int[Tensor, "B T"] | None = None,
        past_segments: Int[Tensor, "B 0"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the vector of every id."""
        return self.rows(ids)


class LowRankEmbedder(CompressedEmbedder):
    """A narrow table and a matrix up to the model's width (Lan et al. 2019, arXiv 1909.11942)."""

    def __init__(self, vocab_size: int, width: int, config: CompressedConfig) -> None:
        super().__init__(vocab_size)
        rank = max(1, round(vocab_size * width / config.compression / (vocab_size + width)))
        self.narrow = nn.Embedding(vocab_size, rank)
        self.up = Linear(rank, width)

    def rows(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Look up and widen."""
        out: Tensor = self.up(look_up(self.narrow.weight, ids))
        return out


class HashEmbedder(CompressedEmbedder):
    """A sum of k hashed rows, weighted by learnt numbers of the id (Svenstrup et al. 2017, arXiv 1709.03933)."""

    num_factors = 2

    def __init__(self, vocab_size: int, width: int, config: CompressedConfig) -> None:
        super().__init__(vocab_size)
        k = config.num_hashes
        num_rows = max(k, round((vocab_size * width / config.compression - vocab_size * k) / width))
        self.shared = nn.Embedding(num_rows, width)
        self.importance = nn.Embedding(vocab_size, k)
        buckets = torch.cat([key_words(torch.arange(vocab_size), 1, 0, stream) for stream in range(k)], dim=1)
        self.register_buffer("buckets", buckets % num_rows, persistent=False)

    def rows(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Look up the k rows and weigh them."""
        buckets = self.buckets
        assert isinstance(buckets, Tensor)
        weights = look_up(self.importance.weight, ids)
        found = look_up(self.shared.weight, buckets[ids].flatten(1)).view(*weights.shape, -1)
        out: Tensor = (found * weights[..., None]).sum(-2) / weights.shape[-1] ** 0.5
        return out


class QuotientRemainderEmbedder(CompressedEmbedder):
    """The product of a row for id // m and one for id % m: a pair an id (Shi et al. 2020, arXiv 1909.02107)."""

    num_factors = 2

    def __init__(self, vocab_size: int, width: int, config: CompressedConfig) -> None:
        super().__init__(vocab_size)
        # m + C / m rows in all; the larger solution, or the least possible where there is none.
        rows = vocab_size / config.compression
        under = rows * rows - 4 * vocab_size
        self.modulus = max(1, math.ceil((rows + under**0.5) / 2 if under > 0 else vocab_size**0.5))
        self.remainders = nn.Embedding(self.modulus, width)
        self.quotients = nn.Embedding(-(-vocab_size // self.modulus), width)

    def rows(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Look up both rows and multiply."""
        return look_up(self.remainders.weight, ids % self.modulus) * look_up(self.quotients.weight, ids // self.modulus)

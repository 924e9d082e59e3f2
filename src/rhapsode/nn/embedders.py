"""Token ids to vectors."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.config import Config
from rhapsode.nn.config import HashedNgramsConfig
from rhapsode.nn.linear import Linear
from rhapsode.ops.lookup import look_up
from rhapsode.ops.ngram_hash import hash_ngrams


class TableEmbedder(nn.Module):
    """One learnt vector per id. Remembers no earlier ids."""

    context = 0

    def __init__(self, vocab_size: int, width: int, config: Config | None) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        past: Int[Tensor, "B 0"],
        segments: Int[Tensor, "B T"] | None = None,
        past_segments: Int[Tensor, "B 0"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Look up each id."""
        return look_up(self.table.weight, ids)


class HashedNgramEmbedder(nn.Module):
    """A table, plus a vector for the hashed n-gram that ends at each position, one table per order.

    e_t = E[x_t] + sum_n P_n G_n[hash(x_{t-n+1..t})]. The tables hold what an n-gram model would have to
    learn by attention (hash embeddings: Svenstrup et al. 2017, arXiv 1709.03933; byte n-grams: Pagnoni et
    al. 2024, arXiv 2412.09871). An n-gram that would cross the start of a document counts id 0 (padding)
    there.
    """

    def __init__(self, vocab_size: int, width: int, config: HashedNgramsConfig) -> None:
        super().__init__()
        self.orders = config.orders
        self.context = max(config.orders, default=1) - 1
        self.table = nn.Embedding(vocab_size, width)
        if config.num_buckets is None:
            raise ValueError("model.hashed_ngrams.num_buckets must be solved before the model is built.")
        dim = config.dim or width
        self.num_buckets = config.num_buckets
        self.ngram_tables = nn.ModuleList(nn.Embedding(config.num_buckets, dim) for _ in self.orders)
        self.projections = nn.ModuleList(Linear(dim, width) for _ in self.orders) if config.dim else None

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        past: Int[Tensor, "B P"],
        segments: Int[Tensor, "B T"] | None = None,
        past_segments: Int[Tensor, "B P"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Look up each id and its n-grams.

        Args:
            past: the `context` ids before these, 0 where there are none.
            segments: document numbers; an n-gram stays inside its document.
            past_segments: document numbers of `past`; with `segments` only.
        """
        total = look_up(self.table.weight, ids)
        history = torch.cat([past, ids], dim=1)
        numbers = None
        if segments is not None and past_segments is not None:
            numbers = torch.cat([past_segments, segments], dim=1)
        for index, order in enumerate(self.orders):
            skip = self.context - order + 1
            if numbers is None:
                buckets = hash_ngrams(history[:, skip:], order, self.num_buckets)
            else:
                buckets = _hash_within(history[:, skip:], numbers[:, skip:], order, self.num_buckets)
            table = cast(nn.Embedding, self.ngram_tables[index])
            vectors = look_up(table.weight, buckets)
            total = total + (vectors if self.projections is None else self.projections[index](vectors))
        return total


def _hash_within(
    history: Int[Tensor, "B S"], numbers: Int[Tensor, "B S"], order: int, num_buckets: int
) -> Int[Tensor, "B T"]:
    """Hash the n-gram that ends at each position, with 0 for every id of another document."""
    windows = history.unfold(1, order, 1)
    inside = numbers.unfold(1, order, 1) == numbers[:, order - 1 :, None]
    grams = torch.where(inside, windows, 0)
    batch, length, _ = grams.shape
    return hash_ngrams(grams.reshape(batch * length, order), order, num_buckets).view(batch, length)

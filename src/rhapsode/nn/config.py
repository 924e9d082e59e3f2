"""What a person can set about the parts of a decoder. Torch-free."""

from typing import Literal

from pydantic import Field, field_validator

from rhapsode.config import Config
from rhapsode.errors import UserError
from rhapsode.registry import Registry

EMBEDDERS = Registry(
    "embedders",
    {
        "table": ("rhapsode.nn.embedders:TableEmbedder", "one learnt vector per token id"),
        "hashed_ngrams": (
            "rhapsode.nn.embedders:HashedNgramEmbedder",
            "a table plus one vector per hashed n-gram of the last tokens",
        ),
    },
)

MIXERS = Registry(
    "mixers",
    {
        "attention": ("rhapsode.nn.attention:Attention", "causal softmax attention, seq_len positions back"),
        "sliding": ("rhapsode.nn.attention:SlidingAttention", "the same, attention.window positions back"),
    },
)

HEADS = Registry(
    "heads",
    {
        "tied": ("rhapsode.nn.heads:TiedHead", "logits by the embedding table itself"),
        "untied": ("rhapsode.nn.heads:UntiedHead", "logits by a matrix of its own"),
    },
)

FEED_FORWARDS = Registry(
    "feed_forwards",
    {
        "gelu": ("rhapsode.nn.feedforward:GeluFeedForward", "two matrices around a GELU"),
        "squared_relu": ("rhapsode.nn.feedforward:SquaredReluFeedForward", "two matrices around relu(x)^2"),
    },
)


class HashedNgramsConfig(Config):
    """Settings of the `hashed_ngrams` embedder."""

    orders: tuple[int, ...] = (2, 3)
    """Lengths of the n-grams, in tokens, each with a table of its own."""

    @field_validator("orders")
    @classmethod
    def _different_lengths(cls, orders: tuple[int, ...]) -> tuple[int, ...]:
        if not orders or min(orders) < 2 or len(set(orders)) < len(orders):
            raise UserError(
                f"model.hashed_ngrams.orders must be different lengths of at least 2; got {list(orders)}. Try [2, 3]."
            )
        return orders

    num_buckets: int | None = Field(default=None, ge=1)
    """Rows of each table; without it, the parameter budget decides."""
    dim: int | None = Field(default=None, ge=1)
    """Width of a row, projected to the model's width; without it, rows have the model's width."""


class AttentionConfig(Config):
    """Settings of the attention mixers."""

    head_dim: int = Field(default=64, ge=2, multiple_of=2)
    """Width of a head where num_heads is left to the budget."""
    num_kv_heads: int | None = Field(default=None, ge=1)
    """Key-value heads, shared by groups of query heads; without it, one for each query head."""
    window: int = Field(default=64, ge=1)
    """Positions that the `sliding` mixer looks back, the present one included."""
    positions: Literal["rotary", "learned"] = "rotary"
    """Rotary angles in every head, or one learnt vector per absolute position added to the embedding."""
    rotary_base: float = Field(default=10_000.0, gt=1)
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """Normalise queries and keys before their product."""

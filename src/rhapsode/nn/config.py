"""What a person can set about the parts of a decoder. Torch-free."""

import math
from itertools import pairwise
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
        "holographic": (
            "rhapsode.nn.holographic:HolographicEmbedder",
            "vectors of all ids in a small store of bundles, read back by keys from a seed",
        ),
        "low_rank": ("rhapsode.nn.compressed:LowRankEmbedder", "a narrow table and a matrix up to the width"),
        "hash": ("rhapsode.nn.compressed:HashEmbedder", "a weighted sum of hashed rows"),
        "quotient_remainder": (
            "rhapsode.nn.compressed:QuotientRemainderEmbedder",
            "the product of a row for the id's quotient and one for its remainder",
        ),
        "hypervector_stream": (
            "rhapsode.nn.hypervector_stream:HypervectorStreamEmbedder",
            "another embedder, and the past of any length as bundles in front of its context",
        ),
    },
)

MIXERS = Registry(
    "mixers",
    {
        "attention": ("rhapsode.nn.attention:Attention", "causal softmax attention, seq_len positions back"),
        "sliding": ("rhapsode.nn.attention:SlidingAttention", "the same, attention.window positions back"),
        "gla": ("rhapsode.nn.linear_attention:GatedLinearAttention", "gated linear attention: any past, fixed size"),
    },
)

HEADS = Registry(
    "heads",
    {
        "tied": ("rhapsode.nn.heads:TiedHead", "logits by the embedding table itself"),
        "untied": ("rhapsode.nn.heads:UntiedHead", "logits by a matrix of its own"),
        "factored": ("rhapsode.nn.heads:FactoredHead", "logits by two matrices around factored.rank features"),
        "squared_amplitude": (
            "rhapsode.nn.heads:SquaredAmplitudeHead",
            "the same, with features squared and normalised to a mean of one",
        ),
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


class HolographicConfig(Config):
    """Settings of the `holographic` embedder."""

    num_bundles: int | None = None
    """Rows of the store; without it, the vocabulary over compression."""
    num_hashes: int = Field(default=1, ge=1)
    """Rows that each id is spread over."""
    algebra: Literal["holographic", "sign_flip", "gaussian"] = "holographic"
    """Kind of the keys: unitary ones under circular convolution, signs under multiplication, or Gaussian ones."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Which keys and routes; a saved store can be read with its own seed only."""
    compression: float = Field(default=16.0, ge=1)
    """A full table's rows over those of the store, where num_bundles is not given."""
    store: str | None = None
    """Folder written by `rhapsode embed train`, whose store the model starts from."""

    def fitted(self, vocab_size: int) -> "HolographicConfig":
        """Return the settings with a number of bundles for this vocabulary where none is given."""
        if self.num_bundles is not None:
            return self
        return self.model_copy(update={"num_bundles": max(self.num_hashes, round(vocab_size / self.compression))})

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse a number of bundles or hashes that cannot be routed. Raises UserError, naming what is possible."""
        if self.num_hashes > vocab_size:
            raise UserError(
                f"model.holographic.num_hashes must be at most the vocabulary of {vocab_size}; got {self.num_hashes}. "
                "Try 1."
            )
        if self.num_bundles is not None and not self.num_hashes <= self.num_bundles <= vocab_size:
            raise UserError(
                f"model.holographic.num_bundles must be from model.holographic.num_hashes to the vocabulary of "
                f"{vocab_size}; got {self.num_bundles} with {self.num_hashes} hashes. "
                f"Try {max(self.num_hashes, vocab_size // 16)}."
            )


class CompressedConfig(Config):
    """Settings of the `low_rank`, `hash` and `quotient_remainder` embedders."""

    compression: float = Field(default=16.0, ge=1)
    """A full table's parameters over those of the embedder, as nearly as whole rows can make it."""
    num_hashes: int = Field(default=2, ge=1)
    """Rows that `hash` adds up for each id."""


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


class FactoredHeadConfig(Config):
    """Settings of the `factored` and `squared_amplitude` heads."""

    rank: int = Field(default=128, ge=1)
    """Features between the model's width and the vocabulary."""


# tokens that a bundle holds for one number of it: beyond, unbinding begins to miss some.
NUMBERS_PER_TOKEN = 40
# windows are trained and scored with four half-lives of the text before them.
MAX_HALF_LIFE = 100_000
# measured, unitary keys: numbers a token -> least and most of the tokens read back right, vocabularies up to 32k.
_RECOVERY = ((0.0, 0.0, 0.0), (16.0, 0.42, 0.78), (24.0, 0.75, 0.95), (40.0, 0.98, 1.0), (64.0, 1.0, 1.0))


def expected_recovery(hd_dim: int, tokens: float) -> tuple[float, float]:
    """Return which share of a bundle's tokens can be read back, least and most, between measured points.

    >>> expected_recovery(1024, 64)
    (0.42, 0.78)
    """
    ratio = hd_dim / tokens
    for (low, least_low, most_low), (high, least_high, most_high) in pairwise(_RECOVERY):
        if ratio < high:
            share = (ratio - low) / (high - low)
            return least_low + share * (least_high - least_low), most_low + share * (most_high - most_low)
    return 1.0, 1.0


class HypervectorStreamConfig(Config):
    """Settings of the `hypervector_stream` embedder."""

    tokens: Literal["table", "hashed_ngrams"] = "table"
    """Embedder of the tokens behind the bundles; parallel mode has none, and keeps the table for its head."""
    hd_dim: int | None = Field(default=None, ge=2)
    """Numbers of a bundle, a multiple of the model's width; without it, the nearest at or above 40 x chunk."""
    chunk: int = Field(default=16, ge=1)
    """Tokens of a bundle."""
    num_bundles: int = Field(default=12, ge=1)
    """Bundles of the latest tokens, chunk tokens each."""
    timescales: tuple[float, ...] = ()
    """Half-lives in tokens, each with one more bundle of the whole stream, however long."""
    algebra: Literal["holographic", "sign_flip"] = "holographic"
    """Kind of the tokens' keys."""
    seed: int = Field(default=0, ge=0)
    """Which keys."""
    adapter: Literal["unbind", "broadcast", "learned"] = "unbind"
    """How bundles become vectors: unbound by age and projected, projected and repeated, or a projection a position."""
    mode: Literal["prefix", "parallel"] = "prefix"
    """Bundles in front of ordinary causal tokens, or the next seq_len tokens from bundles alone."""
    task: Literal["continue", "reconstruct"] = "continue"
    """What bundles hold in training: the past of what is predicted, or what is predicted itself (a capacity test)."""

    @field_validator("timescales")
    @classmethod
    def _positive(cls, timescales: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < half_life <= MAX_HALF_LIFE for half_life in timescales):
            raise UserError(
                "model.hypervector_stream.timescales must be positive half-lives of at most "
                f"{MAX_HALF_LIFE} tokens; "
                f"got {list(timescales)}. Try [1024]."
            )
        return timescales

    def fitted(self, width: int) -> "HypervectorStreamConfig":
        """Return the settings with an hd_dim for this width where none is given."""
        if self.hd_dim is not None:
            return self
        return self.model_copy(update={"hd_dim": -(-NUMBERS_PER_TOKEN * self.chunk // width) * width})

    def check_width(self, width: int) -> None:
        """Refuse an hd_dim that is no multiple of the model's width.

        Raises:
            UserError: with the nearest sizes that are.
        """
        if self.hd_dim is not None and self.hd_dim % width:
            below = self.hd_dim // width * width
            nearest = f"{below} or {below + width}" if below else str(width)
            raise UserError(
                "model.hypervector_stream.hd_dim must be a multiple of model.width; "
                f"got {self.hd_dim} and {width}. Try {nearest}."
            )

    def capacity_warnings(self) -> list[str]:
        """Return a sentence for each kind of bundle that holds more tokens than can be read back."""
        size = self.hd_dim or 0
        room = size // NUMBERS_PER_TOKEN
        rule = f"chunk should be at most hd_dim / {NUMBERS_PER_TOKEN} = {room} tokens; got {self.chunk}"
        kinds = [(rule, float(self.chunk))]
        for half_life in self.timescales:
            # a token of age a is as loud as decay^a: all of them make the noise of 1 / (1 - decay^2) full ones.
            full = 2 * math.log(2)
            rule = f"timescales should be at most {size * full / NUMBERS_PER_TOKEN:.3g} tokens with hd_dim {size}"
            kinds.append((f"{rule}; got {half_life:g}", half_life / full))
        sentences = []
        for rule, tokens in kinds:
            if size < NUMBERS_PER_TOKEN * tokens:
                least, most = expected_recovery(size, tokens)
                sentences.append(
                    f"model.hypervector_stream.{rule}: expect {least:.0%} to {most:.0%} of the latest tokens to be "
                    "read back."
                )
        return sentences

    @property
    def past_tokens(self) -> int:
        """Tokens before a window that training and scoring encode: what decayed to 1/16 is left out."""
        return max(self.num_bundles * self.chunk, math.ceil(4 * max(self.timescales, default=0.0)))

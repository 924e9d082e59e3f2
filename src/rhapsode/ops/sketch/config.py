"""Settings of the projection of raw features."""

from typing import Literal

from pydantic import Field, model_validator

from rhapsode.config import Config


class ProjectionConfig(Config):
    """Raw features -> CountSketch -> block SRHT -> `views` times `dim` numbers -> whitening."""

    dense_dim: int = Field(default=0, ge=0)
    """Width of the dense part of the raw vector: all streams side by side."""
    window: int = Field(default=0, ge=0)
    """Tokens of the window whose n-grams and order are hashed; 0 leaves them out."""
    sparse_dim: int = Field(default=0, ge=0)
    """Coordinates that a caller may set by index; 0 if none."""
    bloom_bits: int = Field(default=1 << 16, ge=1)
    """Bits of the Bloom filter of n-grams."""
    bloom_hashes: int = Field(default=2, ge=1)
    """Bits that each n-gram sets."""
    ngram_orders: tuple[int, ...] = (1, 2, 3)
    """Lengths of the n-grams in the Bloom filter."""
    order_slots: int = Field(default=1 << 20, ge=1)
    """Slots of the hashes of id and position."""
    indicator_weight: float = Field(default=1.0, gt=0)
    """Length of the vector of all indicators of a window of n-grams, and of that of its order hashes."""
    order_decay: float = Field(default=0.0, ge=0)
    """The weight of the id at distance d from the end falls as (1 + d) to minus this; 0 weighs all alike."""
    num_buckets: int = Field(default=1 << 14, ge=1)
    """Buckets of the CountSketch."""
    num_hashes: int = Field(default=1, ge=1)
    """Buckets that each raw coordinate is added to."""
    dim: int = Field(default=4096, ge=1)
    """Width of one view."""
    views: int = Field(default=1, ge=1)
    """Independent projections side by side."""
    whiten: Literal["none", "pca", "zca"] = "none"
    """Whitening of the projected features, fitted once and then frozen."""
    epsilon: float = Field(default=1e-3, gt=0)
    """Share of the mean variance that is added to each variance before whitening."""
    scale: float = Field(default=1.0, gt=0)
    """What the projected features are multiplied by; less than 1 where float16 overflows."""
    seed: int = Field(default=0, ge=0)
    """All hashes and signs follow from it."""

    @model_validator(mode="after")
    def _check(self) -> "ProjectionConfig":
        if not (self.dense_dim or self.window or self.sparse_dim):
            raise ValueError(
                "one of dense_dim, window and sparse_dim must be above 0; got none. Say what the input is."
            )
        if self.num_buckets % self.num_hashes:
            raise ValueError(
                f"num_buckets must be a multiple of num_hashes; got {self.num_buckets} and {self.num_hashes}. "
                f"Try {(self.num_buckets // self.num_hashes + 1) * self.num_hashes}."
            )
        if not self.ngram_orders or min(self.ngram_orders) < 1:
            raise ValueError(f"ngram_orders must name orders from 1 on; got {self.ngram_orders}. Try [1, 2, 3].")
        return self

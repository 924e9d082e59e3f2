"""What a person can set about a model as a whole. Torch-free."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from rhapsode.config import Config
from rhapsode.errors import UserError
from rhapsode.nn.config import (
    EMBEDDERS,
    FEED_FORWARDS,
    HEADS,
    MIXERS,
    AttentionConfig,
    CompressedConfig,
    FactoredHeadConfig,
    HashedNgramsConfig,
    HolographicConfig,
    HypervectorStreamConfig,
)


class ModelConfig(Config):
    """The four parts of a decoder and their sizes. A size that is `None` is solved from the budget."""

    embed: str = "hashed_ngrams"
    """How ids become vectors (`rhapsode list embedders`)."""
    mix: str = "attention"
    """The mixer of each layer, as names cycled over the layers: `sliding sliding attention`."""
    feed_forward: str = "squared_relu"
    """The position-wise half of a layer (`rhapsode list feed_forwards`)."""
    predict: str = "untied"
    """How vectors become logits (`rhapsode list heads`)."""

    vocab_size: int | None = Field(default=None, ge=1)
    """Token ids, specials included."""
    width: int | None = Field(default=None, ge=2)
    """Size of the residual stream."""
    num_layers: int | None = Field(default=None, ge=1)
    """Number of layers."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads of a layer."""
    seq_len: int = Field(default=256, ge=2)
    """Context in tokens: the length of a training window, and how far back attention looks."""

    latent_steps: int = Field(default=0, ge=0)
    """Times that one more layer, shared, is run after the others before each prediction; 0 has no such layer."""

    norm: Literal["rms", "layer"] = "rms"
    """Normalisation before each half layer and before the head."""
    embed_norm: bool = True
    """Normalise the embedding as well."""
    mlp_ratio: float = Field(default=4.0, ge=0.25)
    """Width of the feed-forward over the model's."""
    init: Literal["zero_outputs", "gpt2"] = "zero_outputs"
    """Each half layer and the head start at zero, or normal weights of deviation 0.02."""
    logit_soft_cap: float = Field(default=15.0, ge=0)
    """Bound on the size of a logit; 0 for no bound."""

    hashed_ngrams: HashedNgramsConfig = HashedNgramsConfig()
    """Settings of the `hashed_ngrams` embedder."""
    holographic: HolographicConfig = HolographicConfig()
    """Settings of the `holographic` embedder."""
    compressed: CompressedConfig = CompressedConfig()
    """Settings of the `low_rank`, `hash` and `quotient_remainder` embedders."""
    attention: AttentionConfig = AttentionConfig()
    """Settings of the attention mixers."""
    hypervector_stream: HypervectorStreamConfig = HypervectorStreamConfig()
    """Settings of the `hypervector_stream` embedder."""
    factored: FactoredHeadConfig = FactoredHeadConfig()
    """Settings of the `factored` and `squared_amplitude` heads."""

    @field_validator("embed")
    @classmethod
    def _known_embedder(cls, name: str) -> str:
        return EMBEDDERS.check(name, "model.embed")

    @field_validator("feed_forward")
    @classmethod
    def _known_feed_forward(cls, name: str) -> str:
        return FEED_FORWARDS.check(name, "model.feed_forward")

    @field_validator("predict")
    @classmethod
    def _known_head(cls, name: str) -> str:
        return HEADS.check(name, "model.predict")

    @field_validator("mix")
    @classmethod
    def _known_mixers(cls, pattern: str) -> str:
        if not pattern.split():
            raise UserError("model.mix must name at least one mixer; got an empty pattern. Try attention.")
        for name in pattern.split():
            MIXERS.check(name, "model.mix")
        return pattern

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.width is not None and self.num_heads is not None:
            if self.width % self.num_heads or (self.width // self.num_heads) % 2:
                raise UserError(
                    "model.num_heads must divide model.width into heads of even size; "
                    f"got {self.num_heads} and {self.width}. Try {_nearest_heads(self.width, self.num_heads)}."
                )
            kv_heads = self.attention.num_kv_heads
            if kv_heads is not None and self.num_heads % kv_heads:
                raise UserError(
                    f"model.attention.num_kv_heads must divide model.num_heads; got {kv_heads} and "
                    f"{self.num_heads}. Try 1."
                )
        return self

    @model_validator(mode="after")
    def _bundles_divide(self) -> "ModelConfig":
        if self.streams and self.width is not None:
            self.hypervector_stream.check_width(self.width)
        return self

    @model_validator(mode="after")
    def _bundles_can_be_routed(self) -> "ModelConfig":
        if self.embed == "holographic" and self.vocab_size is not None:
            self.holographic.check_vocabulary(self.vocab_size)
        return self

    @property
    def embed_settings(self) -> Config:
        """Settings of the embedder of single tokens."""
        if self.embed in {"low_rank", "hash", "quotient_remainder"}:
            return self.compressed
        return self.holographic if self.embed == "holographic" else self.hashed_ngrams

    @property
    def streams(self) -> bool:
        """Whether what stands before the context reaches the model, as bundles."""
        return self.embed == "hypervector_stream"

    @property
    def token_embedder(self) -> str:
        """Name of the embedder of single tokens."""
        if not self.streams:
            return self.embed
        stream = self.hypervector_stream
        return stream.tokens if stream.mode == "prefix" else "table"

    @property
    def is_smooth(self) -> bool:
        """Whether logits of positions read together differ from those read one by one in their last bits only."""
        return True

    def mixer_of(self, layer: int) -> str:
        """Return the name of a layer's mixer."""
        names = self.mix.split()
        return names[layer % len(names)]

    @property
    def max_positions(self) -> int | None:
        """Positions the model can number, or `None` for no limit (rotary angles)."""
        return self.seq_len if self.attention.positions == "learned" else None


def _nearest_heads(width: int, num_heads: int) -> int:
    valid = [heads for heads in range(1, width // 2 + 1) if width % (2 * heads) == 0]
    return min(valid, key=lambda heads: (abs(heads - num_heads), -heads), default=1)

"""Encoders that a person can name, and their settings. Torch-free."""

from pydantic import Field, field_validator

from rhapsode.config import Config
from rhapsode.registry import Registry

ENTRIES = {
    "static": ("rhapsode.memory.encoders.static:StaticEncoder", "word vectors counted from the run's own text"),
    "sentence-transformers": (
        "rhapsode.memory.encoders.sentence_transformers:SentenceTransformersEncoder",
        "a local folder of the sentence-transformers package",
    ),
    "callable": ("rhapsode.memory.encoders.callable:CallableEncoder", "a function of your own"),
}
ENCODERS = Registry("encoders", ENTRIES)


class StaticEncoderConfig(Config):
    """How the static encoder is trained."""

    width: int = Field(default=256, ge=8, le=512)
    """Width of a vector; a multiple of 8."""
    max_words: int = Field(default=20_000, ge=1)
    """Words that get a vector of their own: the most frequent ones."""
    min_count: int = Field(default=3, ge=1)
    """Words seen less often are known by their spelling only."""
    num_contexts: int = Field(default=2_048, ge=1)
    """Most frequent words that serve as contexts."""
    window: int = Field(default=10, ge=1)
    """Words on each side that count as neighbours."""
    smoothing: float = Field(default=0.75, gt=0, le=1)
    """Power of the context counts: below 1 rare contexts count less."""
    rare_weight: float = Field(default=1e-3, gt=0)
    """a in the weight a / (a + p) of a word with probability p: smaller favours rare words more."""
    spelling: float = Field(default=0.5, ge=0, le=1)
    """Share of a word's vector that comes from its spelling; words without a vector have nothing else."""
    max_chars: int = Field(default=10_000_000, ge=1)
    """Characters of text that are read."""
    seed: int = 0
    """Of the random projection."""

    @field_validator("width")
    @classmethod
    def _whole_bytes(cls, width: int) -> int:
        if width % 8:
            raise ValueError(f"encoder.width must be a multiple of 8; got {width}. Try {width // 8 * 8 or 8}.")
        return width

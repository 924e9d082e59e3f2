"""Settings of text and tokenizers. Imports neither torch nor numpy."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from rhapsode.config import Config
from rhapsode.errors import UserError
from rhapsode.registry import Registry

# three specials and one id for each byte: below this no tokenizer could be lossless.
MIN_VOCAB_SIZE = 3 + 256
DEFAULT_VAL_SPLIT = 0.1
CALIBRATION_SPLIT = 0.02

TOKENIZERS = Registry(
    "tokenizers",
    {
        "bytes": ("rhapsode.text.bytes_tokenizer:BytesTokenizer", "one id a byte; 259 ids, nothing to learn"),
        "chars": ("rhapsode.text.chars:CharsTokenizer", "one id a character; rare characters fall back to bytes"),
        "bpe": ("rhapsode.text.bpe:BpeTokenizer", "byte-level byte-pair encoding; about 3.5 bytes an id at 4096 ids"),
        "ngram": ("rhapsode.text.ngram.tokenizer:NgramTokenizer", "byte n-grams across words; fewest ids for a text"),
    },
)

# come with a model and are never trained, so that a recipe cannot name them.
FOREIGN_TOKENIZERS = Registry(
    "foreign tokenizers",
    {
        "huggingface": (
            "rhapsode.text.huggingface_tokenizer:HuggingFaceTokenizer",
            "the byte-level tokenizer of a Hugging Face model",
        ),
    },
)


class TokenizerConfig(Config):
    """Which tokenizer, and how large it may get."""

    kind: str = "bpe"
    """Name of the tokenizer: bytes, chars, bpe or ngram."""
    max_vocab_size: int | None = None
    """Hard cap on the number of ids, specials included. Default: 259 for bytes, every character seen for chars,
    4096 for bpe and ngram."""
    encoding: Literal["shortest", "greedy"] | None = None
    """How ngram writes text: with the fewest tokens (shortest, the default) or the longest token from the left."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        try:
            return TOKENIZERS.check(kind, "tokenizer.kind")
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("max_vocab_size")
    @classmethod
    def _room_for_bytes(cls, cap: int | None) -> int | None:
        if cap is not None and cap < MIN_VOCAB_SIZE:
            raise ValueError(
                f"tokenizer.max_vocab_size must be at least {MIN_VOCAB_SIZE} (3 specials and 256 bytes); got {cap}. "
                f"Give {MIN_VOCAB_SIZE} or more."
            )
        return cap

    @model_validator(mode="after")
    def _encoding_of_ngrams(self) -> "TokenizerConfig":
        if self.encoding is not None and self.kind != "ngram":
            raise ValueError(
                f"tokenizer.encoding must be left out unless tokenizer.kind is ngram; got {self.encoding} and "
                f"{self.kind}. Leave it out."
            )
        return self


class DataConfig(Config):
    """How text is split into train, validation and calibration, before any window is cut."""

    val_split: float | None = Field(default=None, gt=0, le=0.9)
    """Fraction of the text kept for validation. Default 0.1, unless val_file is given."""
    val_file: str | None = None
    """Validate on this file, and keep nothing of the sources back for validation."""
    split_seed: int = Field(default=0, ge=0)
    """Reshuffles which documents are kept back. Has no effect where documents are split by position (fewer than
    three different documents)."""

    @model_validator(mode="after")
    def _one_validation(self) -> "DataConfig":
        if self.val_split is not None and self.val_file is not None:
            raise ValueError(
                f"--val-split and --val-file must not be given together; got {self.val_split} and {self.val_file}. "
                "Leave one of them out."
            )
        return self

    @property
    def val_fraction(self) -> float:
        """Fraction of the sources kept for validation: 0 with a val_file."""
        if self.val_file is not None:
            return 0.0
        return DEFAULT_VAL_SPLIT if self.val_split is None else self.val_split

"""What a person can set about a field as a language model. Torch-free."""

from typing import Literal

from pydantic import Field, model_validator

from rhapsode.config import Config
from rhapsode.errors import UserError
from rhapsode.nn.field.config import FieldConfig


class FieldModelConfig(Config):
    """Two stages on projected contexts: a map to few numbers, and a field from them to logits."""

    mode: Literal["replacement", "probe"] = "replacement"
    """Whether the field reads ids and hashed n-grams only, or what a teacher does at every position."""
    vocab_size: int | None = Field(default=None, ge=1)
    """Token ids of the teacher's tokenizer; it is the teacher that decides."""
    vocab_limit: int | None = Field(default=None, ge=2)
    """Outputs of the field: the most frequent ids, and one for all others; without it, 4096 or all ids if fewer."""
    window: int = Field(default=8, ge=1)
    """Tokens of the context that the field reads."""
    seq_len: int = Field(default=256, ge=2)
    """Tokens that are read in one piece when text is scored; the field itself never looks past `window`."""

    dim: int = Field(default=4096, ge=2)
    """Numbers of a view after projection; a power of two."""
    views: int = Field(default=1, ge=1)
    """Independent projections of one context, side by side."""
    whiten: Literal["none", "pca", "zca"] = "none"
    """Whitening of the projected contexts, fitted once, at the end of the first epoch."""
    ngrams: tuple[int, ...] | None = None
    """Lengths of the hashed n-grams that join the context before it is projected; without it, 1 to 3 that fit."""

    order_decay: float = Field(default=1.0, ge=0)
    """The weight of the id d places back falls as (1 + d) to minus this, before it is projected."""

    base: Literal["kneser_ney", "unigram"] = "kneser_ney"
    """What the logits start from: the field learns what is to be added to its log-probabilities."""
    base_order: int | None = Field(default=None, ge=1)
    """Order of Kneser-Ney; without it, 8 for bytes and chars and 5 for others."""
    stage1: Literal["table", "dense", "field", "none"] | None = None
    """How the context becomes few numbers: rows of a table that are added, a matrix, a field, or not at all.

    A table is a matrix on the sketch before it is mixed: of a context of ids alone only few rows are read. Without it,
    a table where only ids are read, and else a matrix.
    """
    stage1_dim: int = Field(default=256, ge=1)
    """Numbers between the stages."""
    stage1_field: FieldConfig = FieldConfig(num_units=256, num_active=16, init="random")
    """Settings of the first field, where there is one."""
    reads_base: bool = True
    """Whether the field also reads how sure the base is, and may trust it more or less from context to context."""
    linear: bool = True
    """Whether a linear map of these numbers stands beside the field, which then learns what a line leaves over."""
    gate_gradient: bool = False
    """Whether the first stage also learns through the gates of the units, or through the line alone."""
    field: FieldConfig = FieldConfig(num_units=512, num_active=16)
    """Settings of the field that gives the logits."""

    @model_validator(mode="after")
    def _whitening_can_be_absorbed(self) -> "FieldModelConfig":
        if self.whiten != "none" and self.first_stage != "dense":
            raise UserError(
                f"model.whiten must be none without a matrix that can take it up; got {self.whiten} with "
                f"model.stage1 = {self.stage1}. Set model.stage1 to dense."
            )
        return self

    @model_validator(mode="after")
    def _tables_read_ids(self) -> "FieldModelConfig":
        if self.mode == "probe" and self.stage1 == "table":
            raise UserError(
                "model.stage1 must not be table in probe mode, where nearly every number of a context is something; "
                "got table. Set model.stage1 to dense, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _ngrams_fit(self) -> "FieldModelConfig":
        lengths = self.ngram_lengths
        if len(set(lengths)) < len(lengths) or any(not 1 <= n <= self.window for n in lengths):
            raise UserError(
                f"model.ngrams must be different lengths from 1 to model.window; got {list(lengths)} and "
                f"{self.window}. Leave it out."
            )
        if self.dim & (self.dim - 1):
            raise UserError(
                f"model.dim must be a power of two; got {self.dim}. Try {1 << (self.dim.bit_length() - 1)}."
            )
        return self

    @property
    def ngram_lengths(self) -> tuple[int, ...]:
        """What `ngrams` comes to."""
        return self.ngrams if self.ngrams is not None else tuple(n for n in (1, 2, 3) if n <= self.window)

    @property
    def first_stage(self) -> str:
        """What `stage1` comes to."""
        if self.stage1 is not None:
            return self.stage1
        return "table" if self.mode == "replacement" and self.whiten == "none" else "dense"

    @property
    def embed(self) -> str:
        """What reads the ids."""
        return "field"

    @property
    def streams(self) -> bool:
        """Never: nothing before the window reaches a field."""
        return False

    @property
    def is_smooth(self) -> bool:
        """Not at every place: the last bits of an input decide which of two equally near units takes part."""
        return False

    @property
    def max_positions(self) -> int | None:
        """No limit: what is read is a window."""
        return None

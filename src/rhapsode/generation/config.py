"""What a person can set about generation. Torch-free."""

from typing import Any, Literal

from pydantic import Field, field_validator

from rhapsode.config import Config
from rhapsode.errors import UserError

_COLDEST = 1e-4


class GenerationConfig(Config):
    """How much to generate, how boldly, and when to stop."""

    max_new_tokens: int = Field(default=50, ge=1)
    """Most tokens to generate."""
    temperature: float = Field(default=0.8, ge=0)
    """Divides the logits: below 1 likelier tokens gain, above 1 they lose; 0 always takes the likeliest."""
    top_k: int | None = Field(default=50, ge=0)
    """Sample only from this many likeliest tokens; 0 or `none` from all."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Sample only from the likeliest tokens that together reach this probability; 1 from all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Sample only from tokens at least this fraction as likely as the likeliest; 0 from all."""
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1, tokens of the prompt and of the output so far become less likely; 1 is off."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings; it is not part of the text."""
    seed: int | None = Field(default=0, ge=0, lt=1 << 63)
    """One seed gives one text; `none` draws a fresh seed each time."""
    decode: Literal["plain", "exact", "draft"] = "plain"
    """One token a pass; or several where drafts are right, with the same ids; or the drafts themselves, which are not
    the model's text but come in one pass."""
    truncate: bool = False
    """Cut the beginning of a prompt that is longer than the context, instead of refusing it."""
    context: Literal["ids", "bundle"] = "ids"
    """How a model that streams reads the prompt: token by token as far as fits, or through bundles but for the last."""

    @field_validator("temperature")
    @classmethod
    def _computable(cls, temperature: float) -> float:
        if 0 < temperature < _COLDEST:
            raise UserError(
                f"generation.temperature must be 0 or at least {_COLDEST}; got {temperature}. "
                "Use 0 to always take the likeliest token."
            )
        return temperature

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise UserError("generation.stop must hold strings of at least one character; got ''. Leave it out.")
        return stop

"""Settings of answering, and every encoder that a run can have. Torch-free."""

from pydantic import Field

from rhapsode.config import Config
from rhapsode.memory.encoders.config import ENTRIES
from rhapsode.registry import Registry

ENCODERS = Registry(
    "encoders",
    ENTRIES
    | {
        "state": ("rhapsode.answering.state_encoder:StateEncoder", "the model's own hidden states under a trained head")
    },
)
"""The encoders of the memory, and the one that needs a model."""


class AskConfig(Config):
    """How a question is answered, and when it is not."""

    k: int = Field(default=5, ge=1)
    """Memories that are returned."""
    candidates: int = Field(default=12, ge=1)
    """Memories that the search proposes and that are compared with the question."""
    error_rate: float = Field(default=0.01, gt=0, lt=1)
    """Share of questions without an answer that may be answered all the same."""
    num_negatives: int = Field(default=200, ge=1)
    """Stored facts that are left out one by one to make questions without an answer."""
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """Answer from this confidence on, in place of the calibrated threshold."""

"""What a person can set about the training of an embedding. Torch-free."""

import math
from typing import Literal

from pydantic import Field, model_validator

from rhapsode.config import Config
from rhapsode.errors import UserError

Objective = Literal["addressing", "old", "distil", "skip_gram"]
# what --quick sets where nothing else is given: under a minute on two cores.
QUICK = {
    "vocab_size": 5_000,
    "dim": 128,
    "num_bundles": 64,
    "max_steps": 100,
    "learning_rate": 1e-3,
    "warmup_steps": 20,
    "batch_size": 512,
    "eval_every": 50,
}


class EmbeddingConfig(Config):
    """Sizes, objective and schedule."""

    vocab_size: int = Field(default=50_257, ge=1)
    """Ids; a tokenizer that is trained on text has at most so many."""
    dim: int = Field(default=256, ge=1)
    """Width of a vector."""
    num_bundles: int = 256
    """Rows of the store."""
    num_hashes: int = Field(default=1, ge=1)
    """Rows that each id is spread over."""
    algebra: Literal["holographic", "sign_flip", "gaussian"] = "holographic"
    """Kind of the keys."""
    seed: int = Field(default=0, ge=0, lt=2**62)
    """Decides keys, routes, initial store and data."""

    objective: Objective = "addressing"
    """addressing: find the id's own key (says nothing about meaning); old: squared magnitude and inverse variance;
    distil: the table of a trained run; skip_gram: the neighbours of each token in text."""
    temperature: float = Field(default=0.07, gt=0)
    """Of InfoNCE."""
    negatives: int | None = Field(default=None, ge=0)
    """Candidates sampled for a step; 0 takes all. Without it, all up to 8,192 ids, else 4,096 of them."""
    cosine_weight: float = Field(default=0.1, ge=0)
    """Weight of 1 - cosine to the target."""
    spectral: Literal["log_variance", "log_det", "covariance"] = "log_variance"
    """Term on the spread of the vectors: the bounded mean variance, or one on the spectrum itself."""
    spectral_weight: float = Field(default=0.01, ge=0)
    """Weight of that term."""
    window: int = Field(default=5, ge=1)
    """Tokens to each side that count as neighbours (skip_gram)."""

    max_steps: int = Field(default=5_000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=1_024, ge=2)
    """Ids or pairs of a step."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak rate of AdamW."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the rate rises in a line."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    eval_every: int = Field(default=100, ge=1)
    """Steps between evaluations."""
    eval_batches: int = Field(default=8, ge=1)
    """Batches of an evaluation."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations without an improvement after which training stops."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "EmbeddingConfig":
        if self.warmup_steps >= self.max_steps:
            # a shorter training than usual keeps its shape: a fifth of it is the rise.
            if "warmup_steps" in self.model_fields_set:
                raise UserError(
                    f"--warmup-steps must be below --max-steps; got {self.warmup_steps} and {self.max_steps}. "
                    f"Try {self.max_steps // 5}."
                )
            object.__setattr__(self, "warmup_steps", self.max_steps // 5)
        return self


def cosine_rate(step: int, peak: float, warmup_steps: int, max_steps: int, floor: float = 1e-7) -> float:
    """Return the rate of step 1, 2, ... max_steps: a line up to the peak, then half a cosine down to the floor.

    >>> [f"{cosine_rate(step, 1e-3, 20, 100):.2e}" for step in (10, 20, 30, 40, 50, 100)]
    ['5.00e-04', '1.00e-03', '9.62e-04', '8.54e-04', '6.91e-04', '1.00e-07']
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))

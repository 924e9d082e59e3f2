"""The phases of parallel generation as switches. Torch-free."""

from typing import Literal

from pydantic import Field

from rhapsode.config import Config


class PhaseConfig(Config):
    """What each phase does; the benchmark switches them one by one. No setting changes what `exact` returns."""

    lookup: bool = True
    """Encode context: index the prompt and the output so far, so that drafts can copy from them."""
    training: bool = True
    """Draft positions: ask the n-grams of the run's training text."""
    max_draft: int = Field(default=24, ge=1, le=64)
    """Draft positions: most ids drafted at once; 1 is one id at a time."""
    coherent: Literal["none", "walk", "viterbi"] = "walk"
    """Make coherent: `none` lets every source continue its own draft and takes the surest, `walk` lets the best match
    of any source choose each id in turn, `viterbi` searches the shortlists of all positions for the likeliest path."""
    sharpen: bool = True
    """Sharpen: cut the draft where more of it is not expected to pay; off, drafts have 8 ids if there are as many."""
    refine: bool = True
    """Refine: remember what the model chose after rejected drafts, for later ones."""

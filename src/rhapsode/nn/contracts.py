"""The contracts between a decoder and its parts."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class MixerState(Protocol):
    """What a mixer carries from one call to the next. Never changed in place."""


@runtime_checkable
class Mixer(Protocol):
    """Exchanges information between positions.

    Causal: output t depends on inputs up to t. Any split of a sequence into calls gives the outputs of
    one call over the whole. A step is T = 1.
    """

    def __call__(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None = None,
        *,
        positions: Int[Tensor, " T"],
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        """Mix T positions that follow those in `state`.

        Args:
            x: float, any precision.
            state: of the last call; `None` at the start of a sequence.
            positions: int64, absolute and consecutive; a sequence begins at 0.
            segments: int, document numbers; a position sees only its own document's. `None`: all one.
        """
        ...

    def rewind(self, state: MixerState, keep: int) -> MixerState:
        """Return the state as if the last call had been given only its first `keep` positions."""
        ...

"""One residual layer: a mixer, then a feed-forward."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.norm import NORMS


class Block(nn.Module):
    """x + mix(norm(x)), then x + feed_forward(norm(x)) (pre-norm: Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, width: int, norm: str, mixer: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.mixer_norm = NORMS[norm](width)
        self.mixer = mixer
        self.feed_forward_norm = NORMS[norm](width)
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Any,
        positions: Int[Tensor, " T"],
        segments: Int[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Return the new residual stream and the mixer's new state."""
        mixed, state = self.mixer(self.mixer_norm(x), state, positions=positions, segments=segments)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), state

"""A stepper that takes its steps by the compiled pass."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from rhapsode.generation.compiled.forward import Cache, forward, make_scratch
from rhapsode.generation.compiled.weights import Weights
from rhapsode.generation.sampling import NUM_NEVER_SAMPLED
from rhapsode.generation.stepper import Stepper
from rhapsode.models.contracts import LanguageModel, ModelState
from rhapsode.models.decoder import DecoderState
from rhapsode.models.mixture import Mixture
from rhapsode.ops.rotary import rotary_angles

_NUM_ANGLES = 1024
# longer ones are read sooner by PyTorch, on all its threads.
_MOST_AT_FIRST = 128


@dataclass(frozen=True)
class CompiledState:
    """Where the text stands; what was read is in the stepper's cache. As `ModelState`."""

    position: int
    added: int


class CompiledStepper(Stepper):
    """As `Stepper`, with logits that differ from its own in their last bits; going back costs nothing.

    A short beginning is read in pieces; a long one, or one behind a state, by the model itself, whose keys and values
    are taken over. Later up to `max_count` ids come at once. The cache is written in place: 2 windows of keys and
    values a layer, whose latest window is moved to the front when they are full.
    """

    def __init__(
        self,
        model: LanguageModel,
        weights: Weights,
        max_count: int,
        mixture: Mixture | None = None,
        context: ModelState | None = None,
    ) -> None:
        """Begin a text; see `Stepper`, and `weights_of` for which models.

        Args:
            max_count: most ids of one call after the first, at least 1.
        """
        super().__init__(model, mixture, context)
        steps, groups, size = len(weights.path), weights.num_kv_heads, weights.head_dim
        self._weights = weights
        self._window = int(weights.windows.max())
        self._context = int(weights.orders.max(initial=1)) - 1
        slots = 2 * self._window + max_count
        # rows beyond the last call are written too, see `multiply`.
        self._scratch = make_scratch(weights, max_count, slots)
        nothing = np.zeros((1, size // 2), dtype=np.float32)
        self._cache = Cache(
            np.zeros((steps, groups, size, slots), dtype=np.float32),
            np.zeros((steps, groups, slots, size), dtype=np.float32),
            np.zeros(self._context + slots, dtype=np.int64),
            nothing,
            nothing,
        )
        # how many slots are taken.
        self._length = 0
        self._angles_start = -_NUM_ANGLES
        self._logits_found: Float[Tensor, "N C"] | None = None

    @torch.inference_mode()
    def probe(self, count: int) -> Float[Tensor, "N C"]:
        """Read `count` ids from here, forget them again and return their logits: to see what it costs."""
        self._compute([NUM_NEVER_SAMPLED] * count)
        return torch.from_numpy(self._scratch.logits[:count])

    def compute(self, ids: list[int]) -> Float32[np.ndarray, "N C"]:
        """As `read`, without memories, as an array that the next call overwrites; nothing is copied."""
        assert self._mixture is None
        self._logits_found = None
        self._fed = ids
        if self._limit is not None:
            self._tail = [*self._tail, *ids][-2 * self._limit :]
        self._step(ids)
        return self._scratch.logits[: len(ids)]

    def _run(self, ids: list[int], bundles: Tensor | None) -> Float[Tensor, "N D"]:
        if self._state is None and len(ids) <= _MOST_AT_FIRST:
            # a beginning, or a new one where learnt positions are used up.
            self._length, self._state = 0, CompiledState(0, 0)
            self._cache.ids[: self._context] = 0
        elif not isinstance(self._state, CompiledState):
            hidden = super()._run(ids, bundles)
            self._take_over(self._state)
            self._logits_found = None
            return hidden
        # whole groups of four rows take the least time.
        size = max(1, (len(self._scratch.hidden) - 1) // 4 * 4)
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        vectors, logits = zip(*[self._read_part(part) for part in parts], strict=True)
        self._state = CompiledState(self._state.position, len(ids))
        self._logits_found = torch.cat(logits)
        return torch.cat(vectors)

    def _read_part(self, ids: list[int]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C"]]:
        self._step(ids)
        rows = self._scratch.hidden[: len(ids)].copy(), self._scratch.logits[: len(ids)].copy()
        return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])

    def _step(self, ids: list[int]) -> None:
        self._compute(ids)
        self._length += len(ids)
        self._state = CompiledState(self._state.position + len(ids), len(ids))

    def _logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        return super()._logits(hidden) if self._logits_found is None else self._logits_found[-len(hidden) :]

    def _go_back(self, drop: int) -> None:
        self._length -= drop
        self._state = CompiledState(self._state.position - drop, self._state.added - drop)

    def _compute(self, ids: list[int]) -> None:
        """Run the pass over ids that are not kept yet."""
        if self._length + len(ids) > self._cache.values.shape[2]:
            self._move_to_front()
        position = self._state.position
        start = self._context + self._length
        self._cache.ids[start : start + len(ids)] = ids
        if self._weights.rotary_base:
            self._turn(position, len(ids))
            position -= self._angles_start
        forward(self._weights, self._cache, self._scratch, self._length, position, len(ids))

    def _turn(self, position: int, count: int) -> None:
        """Have the angles of the next positions ready, computed as the model computes them."""
        if not self._angles_start <= position <= self._angles_start + _NUM_ANGLES - count:
            self._angles_start = position
            cosine, sine = _angles(position, self._weights.head_dim, self._weights.rotary_base)
            self._cache = self._cache._replace(cosine=cosine, sine=sine)

    def _move_to_front(self) -> None:
        """Keep the latest positions that a later one may see."""
        keep = self._window - 1
        start = self._length - keep
        self._cache.keys[..., :keep] = self._cache.keys[..., start : self._length].copy()
        self._cache.values[:, :, :keep] = self._cache.values[:, :, start : self._length].copy()
        end = self._context + self._length
        self._cache.ids[: self._context + keep] = self._cache.ids[start:end].copy()
        self._length = keep

    def _take_over(self, state: DecoderState) -> None:
        """Go on from a state of the model."""
        length = min(self._window, max(mixer.positions.shape[0] for mixer in state.mixers))
        for step, mixer in enumerate(state.mixers):
            count = min(length, mixer.positions.shape[0])
            place = slice(length - count, length)
            self._cache.keys[step, :, :, place] = mixer.keys[0, :, -count:].transpose(1, 2).numpy()
            self._cache.values[step, :, place] = mixer.values[0, :, -count:].numpy()
        latest = state.history[0, state.history.shape[1] - self._context :].numpy()
        self._cache.ids[length : length + self._context] = latest
        self._length = length
        self._state = CompiledState(state.position, state.added)


@lru_cache(maxsize=8)
def _angles(
    start: int, head_dim: int, base: float
) -> tuple[Float32[np.ndarray, "P half"], Float32[np.ndarray, "P half"]]:
    cosine, sine = rotary_angles(torch.arange(start, start + _NUM_ANGLES), head_dim, base)
    return cosine.numpy(), sine.numpy()

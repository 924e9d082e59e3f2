"""A model read step by step, for as long as one likes."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.generation.sampling import NUM_NEVER_SAMPLED
from rhapsode.generation.stream_context import Context, StreamContext
from rhapsode.models.contracts import LanguageModel, ModelState
from rhapsode.models.decoder import Decoder
from rhapsode.models.mixture import Mixture


class Stepper:
    """Feeds ids to a model and returns the logits of what follows, in float32, mixed with what memories say if any.

    A model with rotary positions goes on without end; its attention looks `seq_len` positions back. A model with learnt
    positions has only `seq_len` of them: when they are used up, the last `seq_len // 2` ids are read again from
    position 0 and what was before them is lost. That costs one pass over them every `seq_len / 2` tokens. A model that
    streams does the same, and nothing is lost: what leaves its window goes into bundles (see `StreamContext`).

    The model is not changed, also not for the time of a call: several steppers may share it, from several threads.
    """

    def __init__(
        self,
        model: LanguageModel,
        mixture: Mixture | None = None,
        context: ModelState | None = None,
        reads: Context = "ids",
    ) -> None:
        """Begin a text, or go on from a state of the model, such as one that has read prefix vectors.

        Args:
            context: its attention caches and position stand before all ids; the memories do not know of it.
            reads: how the first ids are read by a model that streams; others know `ids` alone.

        Raises:
            UserError: if the first ids are to be bundles and the model has none.
        """
        if reads == "bundle" and not model.config.streams:
            raise UserError(
                f"--context bundle must go to a model with model.embed = hypervector_stream; got {model.config.embed}. "
                "Use --context ids."
            )
        # a state from elsewhere brings its own past, and goes on as any other does.
        streams = isinstance(model, Decoder) and model.config.streams and context is None
        self._stream = StreamContext(cast(Decoder, model), reads) if streams else None
        self._model = _in_float32(model)
        self._device = next(model.parameters()).device
        self._limit = model.config.max_positions
        # only a model with learnt positions reads anything twice.
        self._tail: list[int] = []
        self._state: Any = context
        self._mixture = mixture
        # states of the memories: after all ids but those of the last call, and after each of these as far as needed.
        self._memories: list[tuple[Any, ...]] = []
        self._fed: list[int] = []
        self._vectors = np.zeros((0, 0), dtype=np.float32)

    @property
    def room(self) -> int | None:
        """How many ids can be read before the window starts again; None if it never does."""
        if self._stream is not None:
            return self._stream.room
        if self._limit is None:
            return None
        return self._limit - (0 if self._state is None else self._state.position)

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> Float[Tensor, " C"]:
        """Read `ids` after those fed before and return the logits of the next id, float32, on the CPU. Mutates.

        Where the mixture's gate is closed, and without one, they are the model's own.

        Raises:
            StateError: if more ids come at once than a model with learnt positions can number.
        """
        hidden = self._advance(list(ids))
        # only the last position is worth a product with the head.
        return self._mix(self._logits(hidden[-1:])[0], len(self._fed) - 1)

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Float[Tensor, "N C"]:
        """Read `ids` as `feed` does and return the model's own logits after each; `mix` adds what memories say."""
        return self._logits(self._advance(list(ids)))

    @torch.inference_mode()
    def probe(self, count: int) -> Float[Tensor, "N C"]:
        """Read `count` ids from here, forget them again and return their logits: to see what it costs."""
        ids = torch.full((1, count), NUM_NEVER_SAMPLED, device=self._device)
        hidden, _ = self._model.hidden(ids, self._state)
        return self._model.logits(hidden[0]).cpu()

    def mix(self, logits: Float[Tensor, " C"], place: int) -> Float[Tensor, " C"]:
        """Return the logits that `read` gave after its id number `place`, mixed. Ask for places in ascending order."""
        return self._mix(logits, place)

    def rewind(self, keep: int) -> None:
        """Go back to where only the first `keep` ids of the last call were read. Mutates."""
        drop = len(self._fed) - keep
        if drop == 0:
            return
        self._go_back(drop)
        self._fed = self._fed[:keep]
        self._vectors = self._vectors[:keep]
        self._memories = self._memories[: keep + 1]
        if self._stream is not None:
            self._stream.rewind(drop)
        elif self._limit is not None:
            del self._tail[len(self._tail) - drop :]

    def _advance(self, ids: list[int]) -> Float[Tensor, "N D"]:
        """Run the model over `ids` and return its vectors after each."""
        count = len(ids)
        self._settle()
        self._fed = ids
        bundles: Tensor | None = None
        if self._stream is not None:
            ids, bundles = self._stream.feed(ids)
            self._state = self._state if bundles is None else None
        elif self._limit is not None:
            # the dropped end of a rewind must leave enough of what was before it.
            self._tail = [*self._tail, *ids][-2 * self._limit :]
            if self._state is not None and self._state.position + count > self._limit:
                self._state, ids = None, self._tail[-(self._limit // 2) :]
        hidden = self._run(ids, bundles)[-count:]
        # of what went into bundles there are no vectors, and memories hear nothing.
        self._fed = self._fed[-len(hidden) :]
        if self._mixture is not None:
            self._vectors = hidden.float().cpu().numpy()
        return hidden

    def _run(self, ids: list[int], bundles: Tensor | None) -> Float[Tensor, "N D"]:
        """Run the model over `ids` from its state."""
        read = torch.tensor([ids], device=self._device)
        hidden, self._state = self._model.hidden(read, self._state, bundles=bundles)
        return hidden[0]

    def _logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Return the logits for vectors of the last `_run`."""
        return self._model.logits(hidden).cpu()

    def _go_back(self, drop: int) -> None:
        """Forget the last `drop` ids of the last `_run`."""
        assert self._state is not None
        self._state = self._model.rewind(self._state, self._state.added - drop)

    def _settle(self) -> None:
        """Move the memories past the ids of the last call, and keep only where they are then."""
        if self._mixture is not None and self._fed:
            self._memories = [self._remembered(len(self._fed) - 1)]

    def _mix(self, logits: Float[Tensor, " C"], place: int) -> Float[Tensor, " C"]:
        return logits if self._mixture is None else self._mixture.mix(logits, self._remembered(place))

    def _remembered(self, place: int) -> tuple[Any, ...]:
        """Return the states of the memories after id number `place` of the last call."""
        assert self._mixture is not None
        if not self._memories:
            # the beginning of the text, which is read at once; states between are not asked for.
            states = self._mixture.start(np.array(self._fed, dtype=np.int64), self._vectors)
            self._memories = [states] * (len(self._fed) + 1)
        while len(self._memories) < place + 2:
            done = len(self._memories) - 1
            self._memories.append(self._mixture.advance(self._memories[-1], self._fed[done], self._vectors[done]))
        return self._memories[place + 1]


def _in_float32(model: LanguageModel) -> LanguageModel:
    """Return a model with the same parameters that computes in float32.

    A cached step and a full pass then agree to about 1e-6, which bfloat16 could not give. Training may go on with the
    model in bfloat16 meanwhile: only this shallow copy is set.
    """
    view = copy.copy(model)
    view.compute_dtype = torch.float32
    return view

"""A decoder read step by step, for as long as one likes."""

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.models.decoder import Decoder, DecoderState
from rhapsode.models.mixture import Mixture


class Stepper:
    """Feeds ids to a decoder and returns the logits of what follows, in float32, mixed with what memories say if any.

    A model with rotary positions goes on without end; its attention looks `seq_len` positions back. A model with learnt
    positions has only `seq_len` of them: when they are used up, the last `seq_len // 2` ids are read again from
    position 0 and what was before them is lost. That costs one pass over them every `seq_len / 2` tokens.

    The model is not changed, also not for the time of a call: several steppers may share it, from several threads.
    """

    def __init__(self, model: Decoder, mixture: Mixture | None = None) -> None:
        self._model = _in_float32(model)
        self._device = next(model.parameters()).device
        self._limit = model.config.max_positions
        self._tail: deque[int] = deque(maxlen=0 if self._limit is None else self._limit // 2)
        self._state: DecoderState | None = None
        self._mixture = mixture
        self._memory_states: tuple[Any, ...] | None = None

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> Float[Tensor, " C"]:
        """Read `ids` after those fed before and return the logits of the next id, float32, on the CPU. Mutates.

        Where the mixture's gate is closed, and without one, they are the model's own.

        Raises:
            StateError: if more ids come at once than a model with learnt positions can number.
        """
        self._tail.extend(ids)
        new_ids = ids
        if self._limit is not None and self._state is not None and self._state.position + len(ids) > self._limit:
            self._state, ids = None, list(self._tail)
        hidden, self._state = self._model.hidden(torch.tensor([ids], device=self._device), self._state)
        # only the last position is worth a product with the head.
        logits = self._model.logits(hidden[0, -1]).cpu()
        if self._mixture is None:
            return logits
        return self._mixture.mix(logits, self._remember(self._mixture, new_ids, hidden[0, -len(new_ids) :]))

    def _remember(self, mixture: Mixture, ids: Sequence[int], hidden: Float[Tensor, "N D"]) -> tuple[Any, ...]:
        """Move the memories on by `ids` and return their states."""
        vectors = hidden.float().cpu().numpy()
        if self._memory_states is None:
            self._memory_states = mixture.start(np.array(ids, dtype=np.int64), vectors)
        else:
            for token_id, vector in zip(ids, vectors, strict=True):
                self._memory_states = mixture.advance(self._memory_states, token_id, vector)
        return self._memory_states


def _in_float32(model: Decoder) -> Decoder:
    """Return a decoder with the same parameters that computes in float32.

    A cached step and a full pass then agree to about 1e-6, which bfloat16 could not give. Training may go on with the
    model in bfloat16 meanwhile: only this shallow copy is set.
    """
    view = copy.copy(model)
    view.compute_dtype = torch.float32
    return view

"""A decoder read step by step, for as long as one likes."""

import copy
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.models.decoder import Decoder, DecoderState


class Stepper:
    """Feeds ids to a decoder and returns the logits of what follows, in float32.

    A model with rotary positions goes on without end; its attention looks `seq_len` positions back. A model with learnt
    positions has only `seq_len` of them: when they are used up, the last `seq_len // 2` ids are read again from
    position 0 and what was before them is lost. That costs one pass over them every `seq_len / 2` tokens.

    The model is not changed, also not for the time of a call: several steppers may share it, from several threads.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = _in_float32(model)
        self._device = next(model.parameters()).device
        self._limit = model.config.max_positions
        self._tail: deque[int] = deque(maxlen=0 if self._limit is None else self._limit // 2)
        self._state: DecoderState | None = None

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> Float[Tensor, " C"]:
        """Read `ids` after those fed before and return the logits of the next id, float32, on the CPU. Mutates.

        Raises:
            StateError: if more ids come at once than a model with learnt positions can number.
        """
        self._tail.extend(ids)
        if self._limit is not None and self._state is not None and self._state.position + len(ids) > self._limit:
            self._state, ids = None, list(self._tail)
        hidden, self._state = self._model.hidden(torch.tensor([ids], device=self._device), self._state)
        # only the last position is worth a product with the head.
        return self._model.logits(hidden[0, -1]).cpu()


def _in_float32(model: Decoder) -> Decoder:
    """Return a decoder with the same parameters that computes in float32.

    A cached step and a full pass then agree to about 1e-6, which bfloat16 could not give. Training may go on with the
    model in bfloat16 meanwhile: only this shallow copy is set.
    """
    view = copy.copy(model)
    view.compute_dtype = torch.float32
    return view

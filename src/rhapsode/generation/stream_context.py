"""Where the context of a stream without end lives: its latest tokens in the model's window, all others in bundles."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rhapsode.models.decoder import Decoder

Context = Literal["ids", "bundle"]


class StreamContext:
    """Decides which ids a decoder that streams reads as tokens, and when it begins again behind new bundles.

    Between `seq_len // 2` and `seq_len` tokens stand in the window. When it is full, its older half goes into the
    stream, and the younger is read again behind the bundles of all before it. What is kept is of one size for any
    length of the stream; the price is one pass over `seq_len // 2` tokens for each as many new ones.
    """

    def __init__(self, model: Decoder, context: Context = "ids") -> None:
        """Begin a stream.

        Args:
            context: `ids` reads as much of the first call as fits the window token by token; `bundle` all of it but
                the last token through bundles.
        """
        self._embedder = model.embedder
        self._device = next(model.parameters()).device
        self._size = model.config.seq_len
        self._keep = max(1, self._size // 2)
        self._first_keep = 1 if context == "bundle" else self._size
        self._stream = self._embedder.start(1)
        self._window: list[int] = []
        self._begun = False

    @property
    def room(self) -> int:
        """How many ids can be read token by token before the decoder begins anew."""
        return (self._size if self._begun or self._first_keep > 1 else 0) - len(self._window)

    def feed(self, ids: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """Take ids after those before, and return what the decoder is to read. Mutates.

        Returns:
            Ids, and bundles float32 (1, L, M): then the decoder begins anew, from no state; or `None`: it goes on.

        Raises:
            UserError: if an id is not of the vocabulary.
        """
        joined = [*self._window, *ids]
        if self._begun and len(joined) <= self._size:
            self._window = joined
            return list(ids), None
        limit = self._size if self._begun else self._first_keep
        keep = len(joined) if len(joined) <= limit else min(self._keep, limit)
        older = torch.tensor([joined[: len(joined) - keep]], dtype=torch.int64, device=self._device)
        self._stream = self._embedder.advance(self._stream, older)
        self._window, self._begun = joined[len(joined) - keep :], True
        return self._window, self._embedder.bundles(self._stream)

    def rewind(self, drop: int) -> None:
        """Forget the last `drop` ids of the last call, if it did not make the decoder begin anew."""
        self._window = self._window[: len(self._window) - drop]

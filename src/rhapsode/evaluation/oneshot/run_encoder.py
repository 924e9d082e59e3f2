"""A run's own model as a frozen sentence encoder: the mean of its last hidden states."""

import numpy as np
import torch
from jaxtyping import Float

from rhapsode.models.decoder import Decoder
from rhapsode.text.tokenizer import Tokenizer

_BATCH = 64


class RunEncoder:
    """Texts to vectors, without a gradient; nothing is trained for it."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Float[np.ndarray, "N D"]:
        """Return the mean state over the tokens of each text, its first `seq_len` at most. O(N T) positions."""
        rows = [self._tokenizer.encode(text)[: self._decoder.config.seq_len - 1].tolist() for text in texts]
        # texts of like length share a batch, so that little is padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        device = next(self._decoder.parameters()).device
        out = np.zeros((len(rows), self._decoder.config.width or 0), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            longest = 1 + max(len(rows[i]) for i in batch)
            ids = torch.full((len(batch), longest), self._tokenizer.bos_id, device=device)
            present = torch.zeros(len(batch), longest, 1, device=device)
            for row, i in enumerate(batch):
                ids[row, 1 : 1 + len(rows[i])] = torch.tensor(rows[i], device=device)
                present[row, : 1 + len(rows[i])] = 1
            # what follows a text cannot change it: the model is causal.
            hidden, _ = self._decoder.hidden(ids)
            mean = (hidden.float() * present).sum(1) / present.sum(1)
            out[batch] = mean.cpu().numpy()
        return out

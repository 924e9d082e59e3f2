"""Score a stream of any length: what leaves the window stays in bundles of a fixed size."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float32

from rhapsode.errors import UserError
from rhapsode.models.decoder import Decoder


def score_stream(model: Decoder, pieces: Iterable[np.ndarray]) -> Iterator[Float32[np.ndarray, " N"]]:
    """Yield the nats of the ids of each piece, in order; the very first id of the stream is read and not scored.

    Every id is predicted from the `seq_len // 2` ids before it or more, token by token, and from all before these
    through bundles. Memory is O(1) in the length of the stream, time O(2 N) positions.

    Args:
        pieces: ids (N,) of any integer dtype, each piece as long as one likes.

    Raises:
        UserError: if the model does not stream or predicts from bundles alone, or an id is not of its vocabulary.
    """
    if not model.config.streams:
        raise UserError(
            f"a stream must be scored by a model with model.embed = hypervector_stream; got {model.config.embed}. "
            "Train with --recipe hsmn."
        )
    if model.config.hypervector_stream.mode != "prefix":
        raise UserError(
            "model.hypervector_stream.mode must be prefix to score a stream token by token; got parallel. "
            "Train with mode=prefix."
        )
    return _score(model, pieces)


def _score(model: Decoder, pieces: Iterable[np.ndarray]) -> Iterator[Float32[np.ndarray, " N"]]:
    device = next(model.parameters()).device
    half = max(1, model.config.seq_len // 2)
    stream = model.embedder.start(1)
    window = np.empty(0, dtype=np.int64)
    for piece in pieces:
        scored = []
        for start in range(0, len(piece), half):
            new = piece[start : start + half].astype(np.int64)
            joined = np.concatenate([window, new])
            if len(joined) > 1:
                ids = torch.from_numpy(joined[None]).to(device)
                with torch.inference_mode():
                    losses = model.loss(ids[:, :-1], ids[:, 1:], bundles=model.embedder.bundles(stream))[0]
                scored.append(losses[-len(new) :].cpu().numpy())
            older = torch.from_numpy(joined[None, : max(0, len(joined) - half)]).to(device)
            stream = model.embedder.advance(stream, older)
            window = joined[-half:]
        yield np.concatenate(scored) if scored else np.empty(0, dtype=np.float32)

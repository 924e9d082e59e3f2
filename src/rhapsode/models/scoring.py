"""Score text: the log-probability of every token, with windows that slide over it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.models.contracts import LanguageModel
from rhapsode.models.decoder import Decoder
from rhapsode.ops.statistics import ratio_interval
from rhapsode.text.batches import past_windows, sliding_windows, window_starts
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import Tokenizer


@torch.inference_mode()
def score_tokens(
    model: LanguageModel,
    tokens: TokenArray,
    *,
    stride: int | None = None,
    batch_size: int = 16,
    isolate_documents: bool = False,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return the negative log-probability in nats of every token but the first, float32 (N - 1,).

    Static: nothing is learnt from the text. Each token is predicted once, from at least `seq_len - stride`
    tokens before it where there are as many. Costs O(N seq_len / stride) positions.

    Args:
        stride: tokens that a window moves on; default `seq_len // 4`.
        isolate_documents: look at nothing before the beginning of a token's own document, as a model does that was
            trained so.
        progress: called with the number of tokens scored since the last call.
    """
    seq_len = model.config.seq_len
    device = next(model.parameters()).device
    pieces = []
    stride = max(1, seq_len // 4) if stride is None else stride
    for index, (inputs, targets, mask) in enumerate(sliding_windows(tokens, seq_len, stride, batch_size)):
        segments = torch.from_numpy(document_numbers(inputs)).to(device) if isolate_documents else None
        ids, wanted = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        bundles = window_bundles(model, tokens, stride, index, ids, wanted)
        losses = model.loss(ids, wanted, segments, bundles=bundles)
        pieces.append(losses.cpu().numpy()[mask])
        if progress is not None:
            progress(int(mask.sum()))
    return np.concatenate(pieces).astype(np.float32)


def window_bundles(
    model: LanguageModel,
    tokens: TokenArray,
    stride: int,
    index: int,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
) -> Float[Tensor, "B L M"] | None:
    """Return the bundles of what stands before each window of batch `index` of `sliding_windows`.

    None for a model that does not stream. Windows that fill up the last batch have none before them.
    """
    if not (isinstance(model, Decoder) and model.config.streams):
        return None
    starts = window_starts(len(tokens), model.config.seq_len, stride)[index * len(ids) : (index + 1) * len(ids)]
    starts = np.pad(starts, (0, len(ids) - len(starts)))
    past = past_windows(tokens, starts, model.embedder.past_tokens)
    return model.encode_past(torch.from_numpy(past).to(ids.device), ids, targets)


def document_numbers(inputs: Int64[np.ndarray, "B T"]) -> Int64[np.ndarray, "B T"]:
    """Return the number of each token's document within its window: how many beginnings came before it."""
    return np.cumsum(inputs == Tokenizer.bos_id, axis=1)


def bits_per_byte(nats: np.ndarray, targets: np.ndarray, num_bytes: np.ndarray) -> float:
    """Return bits per byte of text: the nats of all tokens that stand for bytes, over those bytes.

    Unlike loss per token it can be compared between vocabularies. Document marks stand for no byte and
    count on neither side.

    Args:
        nats: float (N,), one a token.
        targets: int (N,), the tokens.
        num_bytes: int (C,), bytes that each id stands for.
    """
    sizes = num_bytes[targets]
    return float(nats[sizes > 0].sum(dtype=np.float64) / (np.log(2.0) * sizes.sum()))


def score_figures(
    model: LanguageModel,
    tokens: TokenArray,
    tokenizer: Tokenizer,
    max_tokens: int | None = None,
    stride: int | None = None,
    isolate_documents: bool = False,
) -> dict[str, Any]:
    """Return static sliding-window figures of a model on encoded text.

    Returns:
        `bits_per_byte` and its 95 % `interval`, `nats_per_token` and its `nats_interval`, `n` tokens scored; of a model
        that streams also its `task`: with `reconstruct` the bundles hold the very text that is scored, so that the
        figures say how much of it is read back, and predict nothing.

    Raises:
        UserError: if there are fewer than 2 tokens of text to score.
    """
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens = TokenArray(tokens.ids[:max_tokens], tokens.doc_starts, 0)
    nats = score_tokens(model, tokens, stride=stride, isolate_documents=isolate_documents)
    targets = np.asarray(tokens.ids)[1:]
    sizes = tokenizer.num_bytes[targets].astype(np.float64)
    text = sizes > 0
    if text.sum() < 2:
        raise UserError(f"text must hold at least 2 tokens that can be scored; got {text.sum()}. Give more text.")
    task = {"task": model.config.hypervector_stream.task} if isinstance(model, Decoder) and model.config.streams else {}
    return {
        **task,
        "bits_per_byte": bits_per_byte(nats, targets, tokenizer.num_bytes),
        "interval": list(ratio_interval(nats[text].astype(np.float64) / np.log(2.0), sizes[text])),
        "nats_per_token": float(nats.mean(dtype=np.float64)),
        "nats_interval": list(ratio_interval(nats.astype(np.float64), np.ones(len(nats)))),
        "n": len(nats),
    }

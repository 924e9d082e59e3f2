"""A prompt as the ids that the model reads first."""

import sys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rhapsode.errors import UserError
from rhapsode.models.contracts import ModelSizes
from rhapsode.text.tokenizer import Tokenizer

Prompt = str | bytes | np.ndarray


@dataclass(frozen=True)
class PromptIds:
    """What the model reads before it generates: `ids` int64 (T,), and how many ids were cut in front of them."""

    ids: Int64[np.ndarray, " T"]
    truncated: int


def max_prompt_tokens(config: ModelSizes) -> int:
    """Return the longest prompt: the context, less room for one new token where positions are numbered.

    A model that streams takes any length: what does not fit its window goes into bundles.
    """
    if config.streams:
        return sys.maxsize
    return config.seq_len if config.max_positions is None else config.max_positions - 1


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer, config: ModelSizes, *, start_with_bos: bool, truncate: bool
) -> PromptIds:
    """Turn a prompt into ids and check that it fits.

    Args:
        prompt: text, bytes, or ids of integer dtype (T,).
        start_with_bos: put the start of a document in front, unless ids already begin with it. An empty prompt always
            gets it, since a model needs something to read.
        truncate: keep the last ids of a prompt that is too long; the start of a document counts as one of them.

    Raises:
        UserError: if the prompt does not fit and `truncate` is false, or ids are not ids of the tokenizer, or the
            tokenizer is not the model's.
    """
    if config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"the tokenizer must have as many ids as the model; got {tokenizer.vocab_size} and {config.vocab_size}. "
            "Use the tokenizer of the same run."
        )
    if isinstance(prompt, np.ndarray):
        ids = _check_ids(prompt, tokenizer.vocab_size)
    else:
        ids = tokenizer.encode(prompt).astype(np.int64)
    if ids.size == 0 or (start_with_bos and ids[0] != tokenizer.bos_id):
        ids = np.concatenate([np.array([tokenizer.bos_id], dtype=np.int64), ids])
    limit = max_prompt_tokens(config)
    extra = max(0, ids.size - limit)
    if extra and not truncate:
        room = "" if config.max_positions is None else " with room for one new token"
        raise UserError(
            f"the prompt must fit the model's context of {config.seq_len} tokens{room}; got {ids.size} tokens. "
            "Shorten it, or keep only its end with --truncate."
        )
    return PromptIds(ids[extra:], extra)


def _check_ids(ids: np.ndarray, vocab_size: int) -> Int64[np.ndarray, " T"]:
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"the prompt's ids must be integers in one dimension; got {ids.dtype} of shape {ids.shape}. "
            "Use what the tokenizer's encode returns."
        )
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise UserError(
            f"the prompt's ids must lie between 0 and {vocab_size - 1}; got {outside[0]}. "
            "Use the tokenizer they came from."
        )
    return ids.astype(np.int64)

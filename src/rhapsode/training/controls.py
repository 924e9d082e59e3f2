"""The cheap figures that stand beside every curve: ln(vocab), unigram and Kneser-Ney."""

import time

import numpy as np

from rhapsode.memory.kneser_ney import KneserNey, default_order
from rhapsode.memory.unigram import Unigram
from rhapsode.models.scoring import bits_per_byte
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import Tokenizer

# counting more text than this would take longer than a short training.
MAX_COUNTED_BYTES = 10_000_000


def control_figures(train: TokenArray, validation: TokenArray, tokenizer: Tokenizer) -> dict[str, float]:
    """Return bits per byte of the controls on the validation text, fitted on at most 10 MB of training text.

    Returns:
        `ln_vocab` (nats per token of guessing), `unigram_bits_per_byte`, `kneser_ney_bits_per_byte`,
        `controls_seconds`.
    """
    started = time.perf_counter()
    ids = counted_head(train, tokenizer).ids
    targets = np.asarray(validation.ids)[1:]
    unigram = Unigram.fit(ids, tokenizer.vocab_size)
    kneser_ney = KneserNey.fit(ids, tokenizer.vocab_size, default_order(tokenizer.kind))
    return {
        "ln_vocab": float(np.log(tokenizer.vocab_size)),
        "unigram_bits_per_byte": bits_per_byte(
            -unigram.log_prob(np.asarray(validation.ids))[1:], targets, tokenizer.num_bytes
        ),
        "kneser_ney_bits_per_byte": bits_per_byte(
            -kneser_ney.log_prob(np.asarray(validation.ids))[1:], targets, tokenizer.num_bytes
        ),
        "controls_seconds": time.perf_counter() - started,
    }


def counted_head(train: TokenArray, tokenizer: Tokenizer) -> TokenArray:
    """Return the beginning of the training text that is counted: 10 MB, by the average size of a token.

    A run keeps it, so that everything that counts it can do so again when the sources are gone.
    """
    num_ids = max(2, int(len(train) * min(1.0, MAX_COUNTED_BYTES / max(1, train.num_bytes))))
    if num_ids >= len(train):
        return train
    ids = train.ids[:num_ids]
    starts = train.doc_starts[: np.searchsorted(train.doc_starts, num_ids)]
    return TokenArray(ids, starts, int(tokenizer.num_bytes[ids].sum()))

"""Where a text stands in what a run learnt from: forgetting a memory does not touch that, so it has to be said."""

from collections.abc import Sequence

import numpy as np

from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer

_AT_ONCE = 1 << 17
PARTS = ("training", "validation", "calibration")


def find_in_run(folder: RunFolder, texts: Sequence[str]) -> dict[str, int]:
    """Return how many of `texts` stand, as they are, in each part of the text that the run keeps.

    Of the training text a run keeps the first 10 MB. Costs a few milliseconds for each MB.

    Raises:
        StateError: if the kept text is damaged.
    """
    if not texts:
        return dict.fromkeys(PARTS, 0)
    tokenizer = load_tokenizer(folder.tokenizer)
    wanted = {text.strip().encode() for text in texts}
    found = {}
    for part in PARTS:
        kept = decode_fast(load_token_array(folder.data / part).ids, tokenizer)
        found[part] = sum(text in kept for text in wanted)
    return found


def decode_fast(ids: np.ndarray, tokenizer: Tokenizer) -> bytes:
    """Return what `tokenizer.decode_bytes` returns for many ids, gathered from one table of all tokens' bytes."""
    if not len(ids) or int(ids.max()) >= tokenizer.vocab_size:
        return tokenizer.decode_bytes(ids)
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    table = np.frombuffer(b"".join(tokens), dtype=np.uint8)
    sizes = np.array([len(token) for token in tokens], dtype=np.int32)
    starts = np.cumsum(sizes, dtype=np.int32) - sizes
    pieces = []
    for begin in range(0, len(ids), _AT_ONCE):
        part = np.asarray(ids[begin : begin + _AT_ONCE])
        size = sizes[part]
        ends = np.cumsum(size, dtype=np.int32)
        # where each byte is in the table: its place in the output, moved from its token's place there.
        places = np.repeat(starts[part] - (ends - size), size) + np.arange(int(ends[-1]), dtype=np.int32)
        pieces.append(table[places].tobytes())
    return b"".join(pieces)

"""Where a text stands in what a run learnt from: forgetting a memory does not touch that, so it has to be said."""

from collections.abc import Sequence

from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.text.tokenizer import load_tokenizer

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
        kept = tokenizer.decode_bytes(load_token_array(folder.data / part).ids)
        found[part] = sum(text in kept for text in wanted)
    return found

"""A run's memory of tokens: what it was trained on and what it was taught, mixed into what its model says next."""

from collections.abc import Iterable

import numpy as np

from rhapsode.memory.contracts import Row
from rhapsode.memory.kneser_ney import default_order
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.models.decoder import Decoder
from rhapsode.models.gate import Gate
from rhapsode.models.mixture import Mixture, calibrate
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.text.tokenizer import Tokenizer


def build_mixture(
    folder: RunFolder, decoder: Decoder, tokenizer: Tokenizer, rows: Iterable[Row]
) -> tuple[Mixture, NgramMemory]:
    """Count the training text that the run keeps, learn the taught rows on top, and fit the gate.

    The gate is fitted once, on the run's calibration text, with the training text alone; it is kept in RUN/gate.json.
    Costs a few seconds the first time, then that of counting: about 1 s for each MB.

    Args:
        rows: current memories of one space; each is a document of its own, numbered by its id.

    Returns:
        the mixture, and its memory, for `follow_rows`.

    Raises:
        StateError: if the kept text or the gate is damaged.
    """
    train = load_token_array(folder.data / "training")
    memory = NgramMemory.fit(np.asarray(train.ids), tokenizer.vocab_size, default_order(tokenizer.kind))
    if folder.gate.exists():
        gate = Gate.load(folder.gate)
    else:
        gate = calibrate(decoder, [memory], load_token_array(folder.data / "calibration"))
        gate.save(folder.gate)
    follow_rows(memory, tokenizer, rows)
    return Mixture([memory], gate), memory


def follow_rows(memory: NgramMemory, tokenizer: Tokenizer, rows: Iterable[Row]) -> None:
    """Learn the rows that the memory does not hold yet, and forget those that are not among `rows` any more.

    The text of a row never changes, so its number is enough to know it by.
    """
    wanted = {row.id: row for row in rows}
    held = set(memory.row_ids)
    for row_id in held - set(wanted):
        memory.forget(row_id)
    for row_id in sorted(set(wanted) - held):
        memory.learn(row_id, encode_row(wanted[row_id].text, tokenizer))


def encode_row(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Return a taught text as the document that it would have been in training."""
    ids = [np.array([tokenizer.bos_id]), tokenizer.encode(text).astype(np.int64), np.array([tokenizer.eos_id])]
    return np.concatenate(ids)

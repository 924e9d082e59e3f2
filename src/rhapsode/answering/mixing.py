"""A run's memory of tokens: what it was trained on and what it was taught, mixed into what its model says next."""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from rhapsode.errors import StateError
from rhapsode.memory.contracts import Row
from rhapsode.memory.kneser_ney import default_order
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.models.contracts import LanguageModel
from rhapsode.models.gate import Gate
from rhapsode.models.mixture import Mixture, calibrate
from rhapsode.runfolder import RunFolder, read_json, write_json
from rhapsode.text.shards import TokenArray, load_token_array
from rhapsode.text.tokenizer import Tokenizer

# a taught row is followed for this many ids: longer than what two facts of one form have in common.
_TAUGHT_ORDER = 16
# shorter matches with a row are chance, and leave the prediction as it is without the rows.
_MIN_MATCH = 3
# ids of a stretch of calibration text, about a sentence or two; one in so many is taught while the gate is fitted.
_STRETCH, _ONE_IN = 48, 4
# of log-probabilities that the gate of the training text is fitted on: four times as many gain nothing.
_FIT_BYTES = 1 << 26


def build_mixture(
    folder: RunFolder, decoder: LanguageModel, tokenizer: Tokenizer, rows: Iterable[Row]
) -> tuple[Mixture, NgramMemory]:
    """Count the training text that the run keeps, stand the taught rows on it, and fit both gates.

    The rows are a memory of their own, with longer n-grams than text affords: counted among the training text, what was
    said once is lost among what was said often. It stands on the mixture of model and training text, so that where no
    row matches, nothing taught has a part in the prediction. The gates are fitted once for a model, and kept in
    RUN/gate.json. Costs some ten seconds the first time, then that of counting: about 1 s for each MB.

    Args:
        rows: current memories of one space; each is a document of its own, numbered by its id.

    Returns:
        the mixture, and its memory of the rows, for `follow_rows`.

    Raises:
        StateError: if the kept text or the gates are damaged.
    """
    train = load_token_array(folder.data / "training")
    base = NgramMemory.fit(np.asarray(train.ids), tokenizer.vocab_size, default_order(tokenizer.kind))
    gates = _load_gates(folder)
    if gates is None:
        gates = fit_gates(decoder, base, load_token_array(folder.data / "calibration"))
        made_for = {"weights_sha256": read_json(folder.run).get("weights_sha256")}
        # where nothing can be written, fitting again the next time is the price.
        with suppress(StateError):
            write_json(folder.gate, {**made_for, **{name: gate.payload() for name, gate in gates.items()}})
    taught = NgramMemory.empty(tokenizer.vocab_size, _TAUGHT_ORDER)
    follow_rows(taught, tokenizer, rows)
    return Mixture([taught], gates["taught"], Mixture([base], gates["text"])), taught


def fit_gates(decoder: LanguageModel, base: NgramMemory, calibration: TokenArray) -> dict[str, Gate]:
    """Fit the gate of the training text's n-grams, and that of rows as if stretches of the text had been taught.

    So the second learns which matches come by chance, and from which length on a row is being told again. Neither
    depends on what was really taught: forgetting a row leaves nothing of it in them.
    """
    text = calibrate(decoder, [base], calibration, max_bytes=_FIT_BYTES)
    rows = NgramMemory.empty(base.vocab_size, _TAUGHT_ORDER)
    ids = np.asarray(calibration.ids)
    for row, begin in enumerate(range(0, len(ids), _ONE_IN * _STRETCH)):
        rows.learn(row, ids[begin : begin + _STRETCH])
    beneath = Mixture([base], text)
    # linear: a row is told or it is not, and what is not told is better left to the mixture beneath.
    taught = calibrate(decoder, [rows], calibration, kind="linear", min_match_length=_MIN_MATCH, beneath=beneath)
    return {"text": text, "taught": taught}


def _load_gates(folder: RunFolder) -> dict[str, Gate] | None:
    """Return the kept gates; `None` if there are none, or they were fitted for other weights of the run."""
    if not folder.gate.exists():
        return None
    kept = read_json(folder.gate)
    if kept.get("weights_sha256") != read_json(folder.run).get("weights_sha256"):
        return None
    return {name: Gate.from_payload(kept.get(name) or {}, folder.gate) for name in ("text", "taught")}


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

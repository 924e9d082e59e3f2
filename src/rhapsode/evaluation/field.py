"""What a distilled field knows, where it loses it, and what it gains by learning on: figures, a table and plots."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from rhapsode.config import build_config, read_toml
from rhapsode.errors import UserError
from rhapsode.evaluation.contracts import SuiteOptions
from rhapsode.evaluation.field_pictures import draw_diagnostics
from rhapsode.evaluation.subject import Subject
from rhapsode.models.field.model import FieldModel
from rhapsode.ops.statistics import ratio_interval
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.training.distill.blocks import BlockReader
from rhapsode.training.distill.config import DistillRecipe
from rhapsode.training.distill.diagnostics import diagnose
from rhapsode.training.distill.files import load_statistics
from rhapsode.training.distill.online import OnlineScores, adapt
from rhapsode.training.distill.run import capture_folder
from rhapsode.training.distill.scoring import collect_figures, summarise
from rhapsode.training.distill.shards import Capture

# positions of validation text that the diagnostics and the online learner read.
_POSITIONS, _QUICK_POSITIONS = 32_768, 2_048


class FieldSuite:
    """Reads what the run captured of its teacher over the validation text."""

    takes: ClassVar[frozenset[str]] = frozenset({"quick"})

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Measure; `quick` takes fewer positions. Draws nothing by chance: `seed` has no effect.

        Returns:
            the figures of `rhapsode distill` on these positions; `diagnostics`, six rows; `online`, bits per byte of
            static and learning fields and counts; `figures`, the pictures that were written into RUN/field/figures.

        Raises:
            UserError: if the run is no field.
            StateError: if its capture is gone or damaged.
        """
        model = subject.decoder
        if not isinstance(model, FieldModel):
            raise UserError("--suite field must measure a run of rhapsode distill; got a decoder. Try perplexity.")
        limit = _QUICK_POSITIONS if options.quick else _POSITIONS
        recipe = build_config(DistillRecipe, read_toml(subject.folder.recipe))
        reader = _open_reader(subject, model)
        training = recipe.training
        statistics = load_statistics(subject.folder, model.field.num_units, training.relocation.decay)
        train_ids = np.asarray(load_token_array(subject.folder.data / "training").ids)
        found = diagnose(model, reader, statistics, subject.folder, train_ids, limit)
        scores = adapt(model, reader, training, training.online_rate, limit)
        online = online_rows(scores, subject.tokenizer.num_bytes)
        pictures = draw_diagnostics(subject.folder, found, online, scores)
        return {
            **summarise(collect_figures(model, reader, limit), model, subject.tokenizer),
            "diagnostics": [one.row() for one in found],
            "details": {one.name: one.details for one in found if one.details},
            "online": online,
            "figures": [str(path) for path in pictures],
            "warnings": [one.warning for one in found if one.warning],
        }


def online_rows(scores: OnlineScores, num_bytes: np.ndarray) -> list[dict[str, Any]]:
    """Return bits per byte of each way to read, and its paired gain over the static field."""
    sizes = num_bytes[scores.next_ids].astype(np.float64)
    text = sizes > 0
    ways = {
        "counts, static": scores.base,
        "counts, growing (a cache)": scores.cache,
        "field, static": scores.field,
        "field, learning": scores.online,
        "field, learning, over growing counts": scores.both,
    }
    return [
        {
            "read by": name,
            "bits_per_byte": _figure(nats[text], sizes[text]),
            "gain over static field": _figure((scores.field - nats)[text], sizes[text]),
        }
        for name, nats in ways.items()
    ]


def _figure(nats: Float[np.ndarray, " N"], sizes: Float[np.ndarray, " N"]) -> dict[str, Any]:
    bits = nats.astype(np.float64) / np.log(2.0)
    return {"value": float(bits.sum() / sizes.sum()), "interval": list(ratio_interval(bits, sizes)), "n": len(bits)}


def _open_reader(subject: Subject, model: FieldModel) -> BlockReader:
    folder: RunFolder = subject.folder
    capture = Capture(capture_folder(folder, subject.header) / "validation", subject.header["teacher"]["fingerprint"])
    return BlockReader(capture, model.context, model.config.window)

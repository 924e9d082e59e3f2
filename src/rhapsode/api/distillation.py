"""The verb that makes a field out of a teacher: distill."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rhapsode.api.record import Record
from rhapsode.config import merge
from rhapsode.training.distill.config import load_distill_recipe
from rhapsode.training.distill.run import DistillRequest, run_distillation
from rhapsode.training.run import Observer


def distill(
    teacher: str | Path | dict[str, Any],
    *,
    data: Sequence[str] | str,
    out: str | Path,
    recipe: str = "hft",
    minutes: float | None = None,
    steps: int | None = None,
    settings: dict[str, Any] | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Record:
    """Distil a teacher into a field of local-linear units.

    Args:
        teacher: the folder of a run or of a Hugging Face causal language model, or what `train` returned.
        data: text to read it over: files, folders, globs, `stdlib`, `-`, or one prepared folder.
        out: folder of the new run.
        recipe: a shipped recipe of a field, or the path of a TOML file.
        minutes: budget of the training; three if none is given. Reading the teacher comes before it.
        steps: budget in optimizer steps instead.
        settings: nested settings on top of the recipe, such as `{"model": {"mode": "probe"}}`.
        cache: folder for what is read of the teacher; by default inside the new run.
        overwrite: replace the run in `out`.
        observer: is told what happens.

    Returns:
        the results, see `run_distillation`.
    """
    budget = {name: value for name, value in (("minutes", minutes), ("steps", steps)) if value is not None}
    overrides = merge(settings or {}, {"training": budget} if budget else {})
    path = str(teacher["run"] if isinstance(teacher, dict) else teacher)
    sources = [data] if isinstance(data, str) else [str(source) for source in data]
    request = DistillRequest(
        path, sources, load_distill_recipe(recipe, overrides), None if cache is None else str(cache)
    )
    return Record(run_distillation(request, out, overwrite=overwrite, observer=observer))

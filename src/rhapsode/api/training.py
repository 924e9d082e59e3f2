"""The verbs that make a run: train and plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rhapsode.api.memory import open_memory
from rhapsode.api.record import Record
from rhapsode.config import build_config, merge, parse_count
from rhapsode.errors import UserError
from rhapsode.runfolder import RunFolder, read_json
from rhapsode.training.config import Recipe, load_recipe
from rhapsode.training.plan import Plan
from rhapsode.training.run import Observer, Request, plan_run, run_training


def build_request(
    sources: Sequence[str] | str,
    *,
    recipe: str | None = None,
    params: str | int | None = None,
    tokenizer: str | Path | None = None,
    init: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    began: dict[str, Any] | None = None,
) -> Request:
    """Gather what a training or a plan is asked for.

    Args:
        sources: files, folders, globs, `stdlib`, `stdlib:source`, `-`, or one prepared folder.
        recipe: a shipped recipe, `rhapsode` if none is given, or the path of a TOML file.
        params: parameter budget, such as `5M`.
        tokenizer: path of a tokenizer to use again.
        init: run to start from.
        settings: nested settings on top of the recipe, such as `{"training": {"steps": 100}}`.
        began: the request of a run to go on with; it fills in what is not given.

    Raises:
        UserError: if a name or a value is wrong.
    """
    overrides = dict(settings or {})
    if params is not None:
        overrides = merge(overrides, {"params": parse_count(params, "--params")})
    names = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    began = began or {"sources": [], "recipe": None, "tokenizer": None, "init": None}
    if recipe is None and began["recipe"] is not None:
        chosen = build_config(Recipe, merge(began["recipe"], overrides))
    else:
        chosen = load_recipe(recipe or "rhapsode", overrides)
    return Request(
        names or began["sources"],
        chosen,
        began["tokenizer"] if tokenizer is None else str(tokenizer),
        began["init"] if init is None else str(init),
    )


def train(
    sources: Sequence[str] | str,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    **request: Any,
) -> Record:
    """Train a model on text.

    Args:
        sources: see `build_request`, as for every other argument not named here.
        out: folder of the new run.
        resume: go on with the run in `out`, exactly as it began; what is not given is as it was.
        overwrite: replace the run in `out`.
        observer: is told what happens.
        minutes: budget of the training; three if none is given.
        steps: budget in optimizer steps instead.

    Returns:
        the results, see `run_training`.
    """
    budget = {name: value for name, value in (("minutes", minutes), ("steps", steps)) if value is not None}
    if budget:
        request["settings"] = merge(request.get("settings") or {}, {"training": budget})
    folder = RunFolder(out)
    saved = read_json(folder.open().run) if resume and folder.exists() else None
    if saved is not None and saved.get("kind", "decoder") != "decoder":
        raise UserError(f"--resume must name a run of rhapsode train; got {out}, which is a field. Distil it again.")
    began = None if saved is None else saved["request"]
    asked = build_request(sources, **request, began=began)
    result = Record(run_training(asked, out, resume=resume, overwrite=overwrite, observer=observer))
    if overwrite and folder.memory.exists():
        # what the run before was taught stays; the encoder is a new one.
        open_memory(folder.path, reencode=True).close()
    return result


def plan(sources: Sequence[str] | str, **request: Any) -> Plan:
    """Return what a training would be, before anything is spent; arguments as of `train`."""
    return plan_run(build_request(sources, **request))[0]

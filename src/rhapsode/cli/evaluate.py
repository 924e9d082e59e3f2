"""rhapsode eval"""

from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table


def evaluate(
    run: options.Run,
    suite: Annotated[str, typer.Option("--suite", help="What to measure (rhapsode list suites).")] = "perplexity",
    data: Annotated[str | None, typer.Option("--data", help="Text to measure on; default: the run's own.")] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Tokens a scoring window moves on; default a quarter of it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of whatever the suite draws.")] = 0,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Measure a model; every figure with n and a 95 % interval."""
    from rhapsode import api
    from rhapsode.evaluation.config import SUITES

    SUITES.check(suite, "--suite")
    result = api.load(run, device=device or "auto").evaluate(suite, data=data, stride=stride, seed=seed)
    (print_json if json else print_table)(result)

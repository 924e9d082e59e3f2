"""rhapsode eval"""

from typing import Annotated

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table


def evaluate(
    run: options.Run,
    suite: Annotated[str, typer.Option("--suite", help="What to measure (rhapsode list suites).")] = "perplexity",
    data: Annotated[
        str | None, typer.Option("--data", help="perplexity: text to measure on; default: the run's own.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="perplexity: tokens a window moves on; default a quarter of it.")
    ] = None,
    file: Annotated[str | None, typer.Option("--file", help="recall: facts that were taught, key TAB text.")] = None,
    space: Annotated[str | None, typer.Option("--space", help="recall: space of the memory.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="oneshot: presets, with commas, or all.")] = None,
    wordnet: Annotated[str | None, typer.Option("--wordnet", help="oneshot-wordnet: folder of its dict files.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="oneshot: fewer seeds and words.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of whatever the suite draws.")] = 0,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Measure a model and its memory; every figure with n and a 95 % interval."""
    from rhapsode import api
    from rhapsode.evaluation.config import SUITES

    # a wrong name is told before a model is read.
    SUITES.check(suite, "--suite")
    result = api.load(run, device=device or "auto").evaluate(
        suite,
        data=data,
        stride=stride,
        file=file,
        space=space,
        preset=preset,
        wordnet=wordnet,
        quick=quick,
        seed=seed,
    )
    if json:
        print_json(result)
        return
    print_table(result)
    if result.get("task") == "reconstruct":
        print("bits_per_byte is of text that the model has seen as bundles; Kneser-Ney and unigram have not seen it.")

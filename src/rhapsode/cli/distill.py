"""rhapsode distill"""

from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json


def distill(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="Folder of a run, or of a Hugging Face causal language model.")
    ],
    data: Annotated[list[str], typer.Option("--data", help="Text to read the teacher over; may be repeated.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the new run.")],
    recipe: Annotated[str, typer.Option("--recipe", help="A recipe of a field, or a TOML file.")] = "hft",
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="replacement reads ids only; probe reads what the teacher does at every position."),
    ] = None,
    units: Annotated[int | None, typer.Option("--units", help="Units of the field.")] = None,
    dim: Annotated[int | None, typer.Option("--dim", help="Numbers of a projected view; a power of two.")] = None,
    views: Annotated[int | None, typer.Option("--views", help="Independent projections side by side.")] = None,
    vocab_limit: Annotated[
        int | None,
        typer.Option("--vocab-limit", help="Outputs of the field: the most frequent ids and one for others."),
    ] = None,
    window: Annotated[int | None, typer.Option("--window", help="Tokens of the context that the field reads.")] = None,
    capture: Annotated[
        str | None,
        typer.Option(
            "--capture", help="probe: ids,embeddings,hidden,qkv,phases,metadata or some of them; default all."
        ),
    ] = None,
    init: Annotated[str | None, typer.Option("--init", help="Start of the units: random or kmeans.")] = None,
    whiten: Annotated[str | None, typer.Option("--whiten", help="none, pca or zca, after the first epoch.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Budget of the training; reading the teacher comes before it.")
    ] = None,
    steps: options.Steps = None,
    cache: Annotated[
        str | None, typer.Option("--cache", help="Folder for what is read of the teacher; default inside the run.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    val_split: options.ValSplit = None,
    val_file: options.ValFile = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides projections, units and order.")] = None,
    device: options.Device = None,
    overrides: options.Set = None,
    json: options.Json = False,
) -> None:
    """Distil a teacher into a field of local-linear units.

    A capture that was stopped goes on where it was when the command is given again.
    """
    settings = options.gather(
        overrides,
        data={"val_split": val_split, "val_file": val_file},
        model={
            "mode": mode,
            "dim": dim,
            "views": views,
            "vocab_limit": vocab_limit,
            "window": window,
            "whiten": whiten,
        },
        training={"capture": capture, "minutes": minutes, "steps": steps, "seed": seed, "device": device},
    )
    from rhapsode.config import merge

    field = {name: value for name, value in (("num_units", units), ("init", init)) if value is not None}
    if field:
        # what --set says wins, as for every flag.
        settings = merge({"model": {"field": field}}, settings)
    from rhapsode import api
    from rhapsode.cli.progress import TrainingProgress

    with TrainingProgress() as progress:
        result = api.distill(
            teacher,
            data=data,
            out=out,
            recipe=recipe,
            settings=settings,
            cache=cache,
            overwrite=overwrite,
            observer=progress.observer(),
        )
    if json:
        print_json(result)
    else:
        print_result(result)


def print_result(result: dict[str, Any]) -> None:
    """Print what a person wants to know after a distillation."""
    low, high = result["interval"]
    bits = "{bits_per_byte:.3f} bits per byte on validation text (95 % interval {low:.3f} .. {high:.3f})"
    print(bits.format(low=low, high=high, **result))
    beside = "beside it: teacher {teacher_bits_per_byte:.3f}, Kneser-Ney {kneser_ney_bits_per_byte:.3f}, unigram "
    print((beside + "{unigram_bits_per_byte:.3f}; KL to the teacher {kl:.3f} nats").format(**result))
    print(
        "{recovered:.0%} of the teacher's gain over the unigram; {active_units:,} active units, {relocations:,} moved; "
        "{unk_rate:.2%} of tokens outside the shortlist".format(**result)
    )
    print('next: rhapsode generate {run} --prompt "..."   rhapsode eval {run} --suite field'.format(**result))

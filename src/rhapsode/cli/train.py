"""rhapsode train"""

from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json, say
from rhapsode.errors import UserError


def train(
    sources: Annotated[list[str] | None, options.Sources.__metadata__[0]] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder of the new run.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A shipped recipe (rhapsode list recipes; default rhapsode) or a TOML file."),
    ] = None,
    params: options.Params = None,
    minutes: options.Minutes = None,
    tokens: options.Tokens = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    init: Annotated[str | None, typer.Option("--init", help="Run to start from, on new text.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; what is not given is as it was.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    tokenizer: options.TokenizerName = None,
    max_vocab_size: options.VocabSize = None,
    val_split: options.ValSplit = None,
    val_file: options.ValFile = None,
    split_seed: options.SplitSeed = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option("--gradient-accumulation-steps", help="Forward passes for one optimizer step.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Peak rate of the matrices.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="Decay of the matrices.")] = None,
    warmup_steps: Annotated[int | None, typer.Option("--warmup-steps", help="Optimizer steps of warm-up.")] = None,
    grad_clip: Annotated[float | None, typer.Option("--grad-clip", help="Largest norm of the gradient.")] = None,
    eval_every: Annotated[
        int | None, typer.Option("--eval-every", help="Optimizer steps between evaluations; default 8 in a run.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option("--save-every", help="Optimizer steps between checkpoints; default every 30 s.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Evaluations without an improvement before stopping.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides weights and the order of the text.")] = None,
    device: options.Device = None,
    overrides: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train a small language model on text.

    The budget is --minutes, --tokens, --steps or --epochs (default: 3 minutes); the learning rate follows it.
    """
    # imported here: pydantic and torch take time, and --help must not.
    from rhapsode.config import parse_count

    if out is None:
        raise UserError("--out must name the folder of the new run, such as --out runs/mine.")
    if not sources and not resume:
        raise UserError("SOURCE must name some text: a file, a folder, a glob, - or stdlib.")
    if resume and overwrite:
        raise UserError("--resume and --overwrite must not be given together. Leave one of them out.")
    kind, path = options.split_tokenizer(tokenizer)
    settings = options.gather(
        overrides,
        tokenizer={"kind": kind, "max_vocab_size": max_vocab_size},
        data={"val_split": val_split, "val_file": val_file, "split_seed": split_seed},
        model={"seq_len": seq_len},
        training={
            "minutes": minutes,
            "tokens": None if tokens is None else parse_count(tokens, "--tokens"),
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "grad_clip": grad_clip,
            "eval_every": eval_every,
            "save_every": save_every,
            "patience": patience,
            "seed": seed,
            "device": device,
        },
    )
    from rhapsode import api
    from rhapsode.cli.progress import TrainingProgress
    from rhapsode.runfolder import RunFolder

    try:
        with TrainingProgress() as progress:
            result = api.train(
                sources or [],
                out=out,
                resume=resume,
                overwrite=overwrite,
                observer=progress.observer(),
                recipe=recipe,
                params=params,
                tokenizer=path,
                init=init,
                settings=settings,
            )
    except KeyboardInterrupt:
        if RunFolder(out).exists():
            say(f"stopped. Go on with: rhapsode train --resume --out {out}")
        raise
    if json:
        print_json(result)
    else:
        print_result(result)


def print_result(result: dict[str, Any]) -> None:
    """Print what a person wants to know after a training."""
    low, high = result["interval"]
    what, beside = "on validation text", "beside it"
    if result.get("task") == "reconstruct":
        what, beside = "of validation text that the model has seen as bundles", "no comparison, without seeing it"
    bits = "{val_bits_per_byte:.3f} bits per byte {what} (95 % interval {low:.3f} .. {high:.3f})"
    print(bits.format(what=what, low=low, high=high, **result))
    controls = "{beside}: Kneser-Ney {kneser_ney_bits_per_byte:.3f}, unigram {unigram_bits_per_byte:.3f}"
    print(controls.format(beside=beside, **result))
    print(
        "{parameters:,} parameters, {tokens:,} tokens in {seconds:.0f} s ({tokens_per_s:,.0f} tokens/s)".format(
            **result
        )
    )
    print('next: rhapsode generate {run} --prompt "..."'.format(**result))

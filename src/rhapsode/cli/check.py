"""rhapsode check"""

from dataclasses import asdict

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table


def check(
    sources: options.Sources,
    recipe: options.RecipeName = "rhapsode",
    params: options.Params = None,
    minutes: options.Minutes = None,
    tokens: options.Tokens = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    tokenizer: options.TokenizerName = None,
    max_vocab_size: options.VocabSize = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    overrides: options.Set = None,
    json: options.Json = False,
) -> None:
    """Plan a training and print it, before anything is spent. Nothing is written."""
    from rhapsode.config import parse_count

    kind, path = options.split_tokenizer(tokenizer)
    settings = options.gather(
        overrides,
        tokenizer={"kind": kind, "max_vocab_size": max_vocab_size},
        model={"seq_len": seq_len},
        training={
            "minutes": minutes,
            "tokens": None if tokens is None else parse_count(tokens, "--tokens"),
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "device": device,
        },
    )
    from rhapsode import api

    plan = api.plan(sources, recipe=recipe, params=params, tokenizer=path, settings=settings)
    model = plan.model
    bundles = model.hypervector_stream
    result = {
        "recipe": recipe,
        "parameters": plan.parameters,
        "vocab_size": model.vocab_size,
        "width": model.width,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "seq_len": model.seq_len,
        "num_buckets": model.hashed_ngrams.num_buckets if model.token_embedder == "hashed_ngrams" else None,
        "num_bundles": bundles.num_bundles + len(bundles.timescales) if model.streams else None,
        "hd_dim": bundles.hd_dim if model.streams else None,
        "memory_mb": round(plan.memory_bytes / 1e6),
        "expected_tokens_per_s": round(plan.tokens_per_s),
        "expected_tokens": plan.tokens,
        "expected_steps": plan.steps,
        "expected_seconds": round(plan.seconds, 1),
        "expected_epochs": round(plan.tokens / plan.tokens_per_epoch, 2),
    }
    if json:
        print_json({**result, "model": asdict(plan)["model"].model_dump(mode="json")})
    else:
        print_table(result)

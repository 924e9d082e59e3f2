"""What bundles of the past are worth to a language model, in bits per byte, beside what could stand in their place.

    python benchmarks/hsmn.py [--quick] [--seconds 40] [--seeds 0 1 2] [--params 1M]

Every variant is trained for the same seconds on the documentation and source of Python's standard library, and scored
on the same validation tokens. Past: the 192 tokens that bundles hold, before a window of 256, in the same document.

prefix      bundles in front of the window, for each adapter. Controls: the same models with empty bundles and with
            those of other windows; bundles without order (a bag of tokens); raw tokens in front, as many as a prefix
            has positions, and the whole past; a window twice as long; no memory.
parallel    the next tokens from bundles alone, all at once, with the same two controls.
reconstruct the document's own training: bundles of what is to be predicted; beside it unbinding in closed form.
heads       factored and squared-amplitude heads against a full matrix, at equal parameters.
mixers      patterns of the layers, with bundles, at equal parameters.

Training is compiled, in the machine's precision, and compiling does not count; scores are in float32. Heads, mixers and
reconstruct take the first two seeds. An hour in full on one core. Rows go to results/hsmn.json, but not with --quick.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _common import num_cores, write_result
from rhapsode.config import parse_count
from rhapsode.models.budget import solve_sizes
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.ops.bundles import token_keys, unbind_ages
from rhapsode.text.batches import past_windows
from rhapsode.text.config import DataConfig
from rhapsode.text.shards import Corpus, TokenArray
from rhapsode.training.config import Recipe, load_recipe
from rhapsode.training.data import choose_tokenizer, encode_data, open_data
from rhapsode.training.hardware import resolve_hardware
from rhapsode.training.optimizer import build_optimizers
from rhapsode.training.schedule import learning_rate_fraction, muon_momentum

BATCH = 16
Bundler = Callable[[Decoder, Tensor, Tensor, Tensor], Tensor | None]


def ordinary(model: Decoder, past: Tensor, ids: Tensor, targets: Tensor) -> Tensor | None:
    """The model's own bundles."""
    return model.encode_past(past, ids, targets)


def empty(model: Decoder, past: Tensor, ids: Tensor, targets: Tensor) -> Tensor | None:
    return None


def of_others(model: Decoder, past: Tensor, ids: Tensor, targets: Tensor) -> Tensor | None:
    """Every window gets the bundles of another."""
    bundles = model.encode_past(past, ids, targets)
    return None if bundles is None else bundles.roll(1, dims=0)


@torch.no_grad()
def bag(model: Decoder, past: Tensor, ids: Tensor, targets: Tensor) -> Tensor | None:
    """Sums of the same keys without order."""
    embedder = model.embedder
    state = embedder.advance(embedder.start(len(past)), past)
    keys, rows = embedder._keys_of(state.recent)
    out: Tensor = keys[rows].unflatten(1, (embedder.config.num_bundles, -1)).sum(dim=2)
    return out


@dataclass(frozen=True)
class Variant:
    """One way to give a model its past.

    `raw` tokens of the past stand in front of the window; with `longer` they are trained on as well.
    """

    measure: str
    name: str
    model: dict[str, Any] = field(default_factory=dict)
    bundler: Bundler = ordinary
    raw: int = 0
    longer: bool = False
    # what the same weights are scored with besides: name -> bundles.
    ablations: dict[str, Bundler] = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """Sizes of the recipe at this budget: positions of a prefix, tokens in its bundles, and of a window."""

    positions: int
    tokens: int
    window: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What holds for all variants: `windows` are scored, `seconds` trained."""

    recipe: Recipe
    corpus: Corpus
    params: int
    seconds: float
    windows: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--params", default="1M")
    parser.add_argument("--only", nargs="+", help="measures to take")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures say nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.seeds, arguments.params = 1.0, [0], "200k"
    torch.set_num_threads(1 if arguments.quick else num_cores())
    torch.set_flush_denormal(True)
    params = parse_count(arguments.params, "--params")
    quick = {"model": {"seq_len": 64}, "tokenizer": {"max_vocab_size": 400}} if arguments.quick else {}
    recipe = load_recipe("hsmn", {"params": params, "tokenizer": {"max_vocab_size": 1024}, **quick})
    data = open_data(["stdlib"], DataConfig())
    corpus = encode_data(data, choose_tokenizer(data, recipe.tokenizer, None))
    solved = model_size(recipe.model.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size}), params)
    stream = solved.hypervector_stream
    past = Past(
        positions=stream.num_bundles * stream.hd_dim // solved.width,
        tokens=stream.num_bundles * stream.chunk,
        window=solved.seq_len,
        body={"width": solved.width, "num_layers": solved.num_layers},
    )
    setting = Setting(recipe, corpus, params, arguments.seconds, 16 if arguments.quick else 256)
    figures: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for variant in variants(past, stream.tokens, quick=arguments.quick):
            if arguments.only and variant.measure not in arguments.only:
                continue
            if variant.measure not in {"prefix", "parallel"} and seed not in arguments.seeds[:2]:
                continue
            for name, row in measure(setting, variant, seed).items():
                figures.setdefault((variant.measure, name), []).append(row)
                print(variant.measure, name, seed, row, flush=True)
    if not arguments.only or "reconstruct" in arguments.only:
        figures["reconstruct", "unbinding in closed form"] = [closed_form(build(solved, 0), corpus)]
    rows = summarise(figures)
    note = (
        f"{params:,} parameters at most (and 10 % less), {arguments.seconds:g} s each, seeds {arguments.seeds}, "
        f"{setting.windows} windows of {recipe.model.seq_len} tokens. "
        "`past_bytes` is what stands for the past: float32 bundles, or ids in uint16. "
        "`gain` is the difference to the better row without memory of the same measure, positive where bits are saved."
    )
    if not arguments.quick:
        write_result("hsmn", rows, title="Bundles of the past", note=note)


def variants(past: Past, tokens: str, *, quick: bool) -> list[Variant]:
    """Everything that is compared; without memory, `tokens` embeds what the recipe does."""
    checks: dict[str, Bundler] = {"empty bundles": empty, "bundles of other windows": of_others}

    def stream(**settings: Any) -> dict[str, Any]:
        # positions to predict at are parameters too, and must not change the body.
        return {"hypervector_stream": settings, **past.body}

    alone = {"embed": tokens}
    found = [
        Variant("prefix", "no memory", alone),
        Variant("prefix", "no memory, same body", {**alone, **past.body}),
        Variant("prefix", "unbind", ablations=checks),
        Variant("prefix", "broadcast", stream(adapter="broadcast"), ablations=checks),
        Variant("prefix", "learned", stream(adapter="learned"), ablations=checks),
        Variant("prefix", "bag of tokens", bundler=bag),
        Variant("prefix", "raw tokens, as many positions", alone, raw=past.positions),
        Variant("prefix", "raw tokens, the whole past", alone, raw=past.tokens),
        Variant("prefix", "window twice as long", alone, raw=past.window, longer=True),
        *(
            Variant("parallel", name, stream(adapter=name, mode="parallel"), ablations=checks)
            for name in ("unbind", "broadcast", "learned")
        ),
        *(
            Variant("reconstruct", name, stream(adapter=name, mode="parallel", task="reconstruct"))
            for name in ("unbind", "broadcast", "learned")
        ),
        *(Variant("heads", name, {"predict": name}) for name in ("untied", "tied", "factored", "squared_amplitude")),
        *(
            Variant("mixers", pattern, {"mix": pattern})
            for pattern in ("attention", "gla", "gla attention", "gla sliding", "sliding attention")
        ),
    ]
    # one of each kind shows that everything runs.
    return found[:3] + found[5:10] + found[12:13] + found[15:] if quick else found


def measure(setting: Setting, variant: Variant, seed: int) -> dict[str, dict[str, Any]]:
    """Train one variant and score it, also with other bundles."""
    model_config = setting.recipe.model
    values = {**model_config.model_dump(), **variant.model}
    bundles = model_config.hypervector_stream.model_dump()
    values["hypervector_stream"] = {**bundles, **variant.model.get("hypervector_stream", {})}
    values["vocab_size"] = setting.corpus.tokenizer.vocab_size
    # raw tokens in front are read by attention that reaches them; parameters do not depend on its reach.
    values["seq_len"] = model_config.seq_len + variant.raw
    model = build(model_size(type(model_config).model_validate(values), setting.params), seed)
    steps, tokens_per_s = train(model, setting, variant, seed)
    row = {
        "parameters": model.num_parameters(),
        "width": model.config.width,
        "layers": model.config.num_layers,
        "past_bytes": past_bytes(model, variant),
        "steps": steps,
        "tokens_per_s": round(tokens_per_s),
    }
    found = {variant.name: {**score(model, setting, variant, variant.bundler), **row}}
    for name, bundler in variant.ablations.items():
        found[f"{variant.name}, {name}"] = {**score(model, setting, variant, bundler), **row}
    return found


def model_size(model: Any, params: int) -> Any:
    return solve_sizes(model, params, model.vocab_size)


def build(model: Any, seed: int) -> Decoder:
    """Fresh weights, in float32 for every variant."""
    return build_decoder(model, seed)


def past_bytes(model: Decoder, variant: Variant) -> int:
    if not model.config.streams:
        return 2 * variant.raw
    return 4 * model.embedder.num_bundles * model.embedder.hd_dim


def window_tensors(
    model: Decoder, tokens: TokenArray, starts: np.ndarray, variant: Variant, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Past for bundles, ids with raw tokens in front of them, and targets."""
    past = past_windows(tokens, starts, model.embedder.past_tokens if model.config.streams else 1)
    front = past_windows(tokens, starts, variant.raw)
    places = starts[:, None] + np.arange(window + 1)
    ids = np.asarray(tokens.ids)[places].astype(np.int64)
    read = np.concatenate([front, ids[:, :-1]], axis=1)
    targets = np.concatenate([read[:, 1:], ids[:, -1:]], axis=1)
    return torch.from_numpy(past), torch.from_numpy(read), torch.from_numpy(targets)


def train(model: Decoder, setting: Setting, variant: Variant, seed: int) -> tuple[int, float]:
    """Train for so many seconds, encoding of bundles included; returns steps and tokens a second."""
    training, tokens, window = setting.recipe.training, setting.corpus.train, setting.recipe.model.seq_len
    optimizers = build_optimizers(model, training)
    hardware = resolve_hardware(training, planned_seconds=setting.seconds * 2)
    model.compute_dtype = hardware.precision
    torch.compiler.reset()
    loss_of = torch.compile(model.loss, dynamic=False) if hardware.compiled else model.loss
    rng = np.random.default_rng(seed)

    def backward() -> None:
        starts = rng.integers(0, len(tokens) - window - 1, BATCH)
        past, ids, targets = window_tensors(model, tokens, starts, variant, window)
        losses = loss_of(ids, targets, bundles=variant.bundler(model, past, ids, targets))
        if not variant.longer:
            losses = losses[:, -window:]
        losses.mean().backward()

    # the first one compiles.
    backward()
    model.zero_grad(set_to_none=True)
    began, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / setting.seconds) < 1:
        backward()
        optimizers.set_rate(learning_rate_fraction(share, step, training), muon_momentum(step))
        for member in optimizers.members:
            member.step()
        model.zero_grad(set_to_none=True)
        step += 1
    model.compute_dtype = torch.float32
    return step, step * BATCH * window / (time.perf_counter() - began)


@torch.inference_mode()
def score(model: Decoder, setting: Setting, variant: Variant, bundler: Bundler) -> dict[str, Any]:
    """Bits per byte of the last `window` targets of windows that are the same for every variant."""
    corpus, window = setting.corpus, setting.recipe.model.seq_len
    tokens = corpus.validation
    starts = np.linspace(512, len(tokens) - window - 2, setting.windows).astype(np.int64)
    bits, size, right, count = 0.0, 0, 0, 0
    for first in range(0, len(starts), BATCH):
        past, ids, targets = window_tensors(model, tokens, starts[first : first + BATCH], variant, window)
        bundles = bundler(model, past, ids, targets)
        losses = model.loss(ids, targets, bundles=bundles)[:, -window:]
        sizes = corpus.tokenizer.num_bytes[targets[:, -window:].numpy()]
        bits += float(losses.numpy()[sizes > 0].sum(dtype=np.float64)) / math.log(2)
        size += int(sizes.sum())
        if variant.measure == "reconstruct" and bundles is not None:
            # bundles hold the last tokens of a window only.
            held = model.embedder.config.num_bundles * model.embedder.config.chunk
            same = (model.bundle_logits(bundles, targets).argmax(dim=-1) == targets)[:, -held:]
            right, count = right + int(same.sum()), count + same.numel()
    recovered = {"recovered": right / count} if count else {}
    return {"bits_per_byte": bits / size, **recovered}


@torch.inference_mode()
def closed_form(model: Decoder, corpus: Corpus) -> dict[str, Any]:
    """Tokens read back from a window's bundles by unbinding and the nearest key, with nothing learnt."""
    window, embedder = model.config.seq_len, model.embedder
    starts = np.linspace(512, len(corpus.validation) - window - 2, 32).astype(np.int64)
    ids = torch.from_numpy(np.asarray(corpus.validation.ids)[starts[:, None] + np.arange(window)].astype(np.int64))
    keys = token_keys(embedder._algebra, torch.arange(embedder.vocab_size))
    chunk = embedder.config.chunk
    found = unbind_ages(embedder.encode(ids), torch.arange(chunk - 1, -1, -1)).flatten(1, 2)
    held = min(window, found.shape[1])
    same = (found[:, -held:] @ keys.T).argmax(dim=-1) == ids[:, -held:]
    return {"recovered": float(same.float().mean())}


def summarise(figures: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row for each variant: means over seeds, the range, and the gain over the better one without memory."""
    rows = []
    for (measure_name, name), found in figures.items():
        row: dict[str, Any] = {"measure": measure_name, "variant": name}
        if "bits_per_byte" in found[0]:
            bits = [one["bits_per_byte"] for one in found]
            row |= {"bits_per_byte": float(np.mean(bits)), "range": [min(bits), max(bits)], "seeds": len(bits)}
            # a body of another depth may be the better one by itself, which is no merit of a memory.
            alone = [
                np.mean([one["bits_per_byte"] for one in others])
                for (of, what), others in figures.items()
                if of == measure_name and what.startswith("no memory")
            ]
            if alone and not name.startswith("no memory"):
                row["gain"] = float(min(alone) - np.mean(bits))
        for key in ("recovered", "parameters", "width", "layers", "past_bytes", "steps", "tokens_per_s"):
            if key in found[0]:
                row[key] = type(found[0][key])(np.mean([one[key] for one in found]))
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()

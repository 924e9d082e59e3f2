"""What a holographic embedding is worth: closed forms, the document's losses before and after, and the frontier.

    python benchmarks/saguaro.py [--quick] [--part closed_form|losses|frontier]... [--seeds 3] [--steps 400]

closed_form  5,000 keys superposed in 1 and 64 bundles of 128, ranked among all keys (no training)
losses       the addressing task from a small store: the old losses against the new, 100 steps, 5,000 ids
frontier     one language model at equal steps on the standard library's prose and source, where only the embedding
             differs: full table, low rank, hash, quotient-remainder, holographic, each at 1/4 and 1/16 of a table's
             parameters; vocabularies of 8k and (1/16 only, a third of the steps, two seeds) 50k, untied heads; bits
             per byte of held-out text

About 45 minutes in full on one core, almost all of it the frontier. Writes results/saguaro.json.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from _common import num_cores, write_result
from _equal_steps import train_and_score
from rhapsode.api.embedding import train_embedding
from rhapsode.models.budget import count_parameters
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.training.config import Recipe, load_recipe
from rhapsode.training.data import choose_tokenizer, encode_data, open_data

PARTS = ("closed_form", "losses", "frontier")
PUBLISHED = {1: (7.686, 0.22, 0.92), 64: (6.52, 11.6, 23.6)}
# a larger vocabulary is measured at 1/16 only.
LARGE = 10_000
EMBEDDERS = ("table", "holographic", "low_rank", "hash", "quotient_remainder")
BODY = {"width": 128, "num_layers": 2, "num_heads": 2, "seq_len": 128, "predict": "untied"}
Row = dict[str, Any]


def main() -> None:
    """Measure what was asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds: one seed, few steps, small vocabulary; no file")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(num_cores())
    torch.set_flush_denormal(True)
    seeds = range(1 if arguments.quick else arguments.seeds)
    parts = arguments.part or PARTS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if "closed_form" in parts:
            rows += closed_form(seeds)
        if "losses" in parts:
            rows += losses(seeds, Path(folder), arguments.quick)
        if "frontier" in parts:
            vocabularies = (1_000,) if arguments.quick else (8_000, 50_000)
            steps = 4 if arguments.quick else arguments.steps
            for vocab_size in vocabularies:
                # a head of 50,000 ids is most of a step's time.
                large = vocab_size > LARGE
                rows += frontier(
                    vocab_size,
                    steps // 3 if large else steps,
                    seeds[:2] if large else seeds,
                    arguments.quick,
                )
    if not arguments.quick:
        write_result("saguaro", rows, title="Holographic embedding", goals=goals_of(rows))


def closed_form(seeds: Sequence[int]) -> list[Row]:
    """Return loss, top-1 and top-5 of superposed keys, for each kind of key, beside the published figures."""
    rows = []
    for algebra in ("gaussian", "holographic", "sign_flip"):
        for bundles, published in PUBLISHED.items():
            found = []
            for seed in seeds:
                embedding = HolographicEmbedding(5_000, 128, bundles, algebra=algebra, seed=seed)
                found.append(rank_keys(embedding.superpose_(embedding.keys())))
            loss, top1, top5 = (statistics.mean(column) for column in zip(*found, strict=True))
            row: Row = {"measure": "closed_form", "keys": algebra, "bundles": bundles, "loss": loss}
            row |= {
                "top1_percent": top1,
                "top5_percent": top5,
                "published": list(published) if algebra == "gaussian" else None,
            }
            rows.append(row)
            print(row, flush=True)
    collapsed = HolographicEmbedding(5_000, 128, 1, algebra="sign_flip").collapse_()
    loss, top1, top5 = rank_keys(collapsed)
    row = {"measure": "closed_form", "keys": "sign_flip, identity in the bundle (trivial)", "bundles": 1, "loss": loss}
    return [*rows, row | {"top1_percent": top1, "top5_percent": top5}]


@torch.no_grad()
def rank_keys(embedding: HolographicEmbedding) -> tuple[float, float, float]:
    """Return InfoNCE at temperature 0.07, and top-1 and top-5 in per cent, of every id among all keys."""
    keys, ids = F.normalize(embedding.keys(), dim=-1), torch.arange(embedding.vocab_size)
    logits = F.normalize(embedding.weight, dim=-1) @ keys.T / 0.07
    hits = logits.topk(5).indices == ids[:, None]
    shares = hits[:, 0].float().mean().item(), hits.any(1).float().mean().item()
    return F.cross_entropy(logits, ids).item(), 100 * shares[0], 100 * shares[1]


def losses(seeds: Sequence[int], folder: Path, quick: bool) -> list[Row]:
    """Return the document's before and after: initial and final loss, last gradient norm, and whether it converged."""
    rows = []
    sizes = {"vocab_size": 500, "max_steps": 10, "warmup_steps": 2} if quick else {}
    for objective, bundles in (("old", 1), ("addressing", 1), ("old", 64), ("addressing", 64)):
        found = [
            train_embedding(
                out=folder / f"{objective}-{bundles}-{seed}", quick=True, objective=objective, seed=seed,
                num_bundles=bundles, **sizes,
            )
            for seed in seeds
        ]  # fmt: skip
        row: Row = {"measure": "losses", "objective": objective, "bundles": bundles}
        for name in ("ln_vocab", "closed_form_loss", "initial_loss", "loss", "top1", "top5", "grad_norm"):
            row[name] = statistics.mean(one[name] for one in found)
        # better than an even guess over all keys: the old losses never are.
        row["converged"] = row["loss"] < row["ln_vocab"]
        rows.append(row)
        print(row, flush=True)
    return rows


def frontier(vocab_size: int, steps: int, seeds: Sequence[int], quick: bool) -> list[Row]:
    """Return bytes and bits per byte of every embedder around one body, trained for equal steps on equal batches."""
    data = open_data(["stdlib"] if quick else ["stdlib", "stdlib:source"], DataConfig())
    tokenizer = TokenizerConfig(kind="bpe", max_vocab_size=vocab_size)
    corpus = encode_data(data, choose_tokenizer(data, tokenizer, None))
    actual = corpus.tokenizer.vocab_size
    rows = []
    for embed in EMBEDDERS:
        for compression in (1,) if embed == "table" else (16,) if quick or actual > LARGE else (4, 16):
            recipe = sized_recipe(embed, compression, actual)
            found = [train_and_score(recipe.model, recipe.training, corpus, steps=steps, seed=seed) for seed in seeds]
            bits = [one["bits_per_byte"] for one in found]
            row: Row = {
                "measure": "frontier", "vocabulary": actual, "embedding": embed, "of_table": f"1/{compression}",
                "bytes": 4 * embedding_parameters(embed, compression, actual), "bits_per_byte": statistics.mean(bits),
                "spread": [min(bits), max(bits)], "steps": steps, "seeds": len(bits),
                "seconds": statistics.mean(one["seconds"] for one in found),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    return rows


def sized_recipe(embed: str, compression: int, vocab_size: int) -> Recipe:
    """Return the recipe around one body with this embedding."""
    model = {
        **BODY,
        "vocab_size": vocab_size,
        "embed": embed,
        "compressed": {"compression": compression},
        "holographic": {"num_bundles": max(1, round(vocab_size / compression))},
    }
    return load_recipe("saguaro", {"model": model, "training": {"batch_size": 8}})


def embedding_parameters(embed: str, compression: int, vocab_size: int) -> int:
    """Return the trainable scalars of the embedding alone: the model's, less those of one with no choice in it."""
    whole = sized_recipe(embed, compression, vocab_size).model
    table = sized_recipe("table", 1, vocab_size).model
    return count_parameters(whole) - count_parameters(table) + vocab_size * BODY["width"]


def goals_of(rows: Sequence[Row]) -> list[Row]:
    """At most 1 % worse than a full table at 1/16 of its bytes, and nothing smaller and better among the controls."""
    goals = []
    for vocabulary in dict.fromkeys(row["vocabulary"] for row in rows if row["measure"] == "frontier"):
        mine = [row for row in rows if row.get("vocabulary") == vocabulary]
        full = next(row for row in mine if row["embedding"] == "table")
        small = next(row for row in mine if row["embedding"] == "holographic" and row["of_table"] == "1/16")
        controls = [row for row in mine if row["embedding"] not in {"table", "holographic"}]
        ratio = small["bits_per_byte"] / full["bits_per_byte"]
        # whole rows and ranks make sizes differ a little: five per cent count as equal.
        beaten = [
            r for r in controls if r["bytes"] <= 1.05 * small["bytes"] and r["bits_per_byte"] < small["bits_per_byte"]
        ]
        what = f"bits per byte over a full table's at 1/16 of its bytes, {vocabulary} ids, at most"
        goals.append({"what": what, "value": ratio, "limit": 1.01, "met": ratio <= 1.01})
        what = f"controls that are smaller and better, {vocabulary} ids, at most"
        names = ", ".join(row["embedding"] for row in beaten) or None
        goals.append({"what": what, "value": len(beaten), "limit": 0, "met": not beaten, "beside": names})
    return goals


if __name__ == "__main__":
    main()

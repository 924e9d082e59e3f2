"""What a field says of captured text, a stretch at a time: for figures, diagnostics and online learning alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhapsode.models.field.model import FieldModel
from rhapsode.models.field.shortlist import class_log_probs
from rhapsode.models.scoring import bits_per_byte
from rhapsode.nn.field.head import FieldOutput
from rhapsode.ops.statistics import ratio_interval
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.distill.blocks import Block, BlockReader
from rhapsode.training.distill.losses import divergence

_LENGTH = 256


@dataclass(frozen=True)
class Scored:
    """A stretch of N positions: what went in, h (N, H), the base and the field's own log-probabilities (N, C)."""

    block: Block
    h: Tensor
    base: Tensor
    output: FieldOutput
    log_probs: Tensor


def score_blocks(model: FieldModel, reader: BlockReader, limit: int | None = None) -> Iterator[Scored]:
    """Yield the text front to back as the static model sees it; nothing is learnt."""
    for block in reader.in_order(_LENGTH, limit):
        yield score_block(model, block)


@torch.no_grad()
def score_block(model: FieldModel, block: Block, base: Tensor | None = None) -> Scored:
    """Score one stretch.

    Args:
        base: log-probabilities (N, C) to start from in place of the model's own base.
    """
    if base is None:
        base = model.base.read(block.past, block.ids).flatten(0, 1)
    h = model.stage_one(model.project_block(block.past, block.ids, block.raw), base)
    output = model.explain(h)
    log_probs = (model.weigh(h, base) + model.spread(output.outputs)).log_softmax(dim=1)
    return Scored(block, h, base, output, log_probs)


@dataclass(frozen=True)
class Figures:
    """Of every position: the field's nats and KL to the teacher, the base's nats, and those of the classes."""

    nats: np.ndarray
    kl: np.ndarray
    base_nats: np.ndarray
    class_nats: np.ndarray
    next_ids: np.ndarray
    teacher_nats: np.ndarray


def collect_figures(model: FieldModel, reader: BlockReader, limit: int | None = None) -> Figures:
    """Score a captured text. O(N) positions."""
    rows: list[tuple[np.ndarray, ...]] = []
    for scored in score_blocks(model, reader, limit):
        rows.append(_figures_of(model, scored))
    return Figures(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _figures_of(model: FieldModel, scored: Scored) -> tuple[np.ndarray, ...]:
    t = scored.block.targets
    came = torch.from_numpy(t.next_ids)
    nats = -scored.log_probs.gather(1, came[:, None])[:, 0]
    base_nats = -scored.base.gather(1, came[:, None])[:, 0]
    classes = class_log_probs(scored.log_probs, model.class_of, model.shortlist.num_classes)
    class_nats = -classes.gather(1, model.class_of[came][:, None])[:, 0]
    kl = divergence(
        scored.log_probs,
        torch.from_numpy(t.top_ids),
        torch.from_numpy(t.top_log_probs),
        torch.from_numpy(t.tail_log_mass),
    )
    return nats.numpy(), kl.numpy(), base_nats.numpy(), class_nats.numpy(), t.next_ids, t.nats


def summarise(figures: Figures, model: FieldModel, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the figures of a text: bits per byte with their interval beside the teacher's and the base's."""
    came = figures.next_ids
    sizes = tokenizer.num_bytes[came].astype(np.float64)
    text = sizes > 0
    return {
        "bits_per_byte": bits_per_byte(figures.nats, came, tokenizer.num_bytes),
        "interval": list(ratio_interval(figures.nats[text].astype(np.float64) / np.log(2.0), sizes[text])),
        "teacher_bits_per_byte": bits_per_byte(figures.teacher_nats, came, tokenizer.num_bytes),
        "base_bits_per_byte": bits_per_byte(figures.base_nats, came, tokenizer.num_bytes),
        "nats_per_token": float(figures.nats.mean(dtype=np.float64)),
        "shortlist_nats_per_token": float(figures.class_nats.mean(dtype=np.float64)),
        "kl": float(figures.kl.mean(dtype=np.float64)),
        "unk_rate": model.shortlist.unk_rate(came),
        "n": len(came),
    }

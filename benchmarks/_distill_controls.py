"""What a field is compared with on the same contexts, over the same counts: line, linear probe, MLP, neighbours."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhapsode.models.field.base import NUM_SURENESS, sureness
from rhapsode.models.field.contexts import SparseContexts, last_windows
from rhapsode.models.field.model import DenseStage, FieldModel, TableStage
from rhapsode.models.scoring import bits_per_byte
from rhapsode.nn.norm import rms_norm
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.distill.blocks import Block, BlockReader
from rhapsode.training.distill.config import DistillConfig
from rhapsode.training.distill.losses import distillation_loss, divergence
from rhapsode.training.distill.shards import CaptureSpec
from rhapsode.training.distill.student import Student, rate_fraction

NEIGHBOURS = 16
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
TEMPERATURES = (0.02, 0.05, 0.1, 0.3)
# keys of the nearest-neighbour control: an exact search of more would outlast everything else.
MAX_KEYS = 20_000


class Head(nn.Module):
    """What stands where the field stands, over the same counts.

    `probe` is one linear map from the projected context (or its sketch) to all classes; `state` one from what the
    teacher's own head reads; `line` is the field model
    without its units: first stage, sureness, trust and a linear map; `mlp` is `line` with a layer of squared rectifiers
    in between.
    """

    def __init__(self, model: FieldModel, kind: str, hidden: int, seed: int, state: slice | None = None) -> None:
        super().__init__()
        self.kind, self.class_of = kind, model.class_of
        self.state = state
        if state is not None:
            self.reads_base = False
            self.stage: nn.Module = nn.Linear(state.stop - state.start, model.shortlist.num_classes)
            self.last = self.inner = self.trust = None
            nn.init.zeros_(self.stage.weight)
            nn.init.zeros_(self.stage.bias)
            return
        classes, own = model.shortlist.num_classes, model.config.stage1_dim
        self.reads_base = kind != "probe" and model.config.reads_base
        wide = classes if kind == "probe" else own
        if model.reads_sketches:
            self.stage = TableStage(model.projection.num_rows, wide, seed)
        else:
            self.stage = DenseStage(model.projection.out_dim, wide, seed)
        width = own + (NUM_SURENESS if self.reads_base else 0)
        self.inner = nn.Linear(width, hidden) if kind == "mlp" else None
        self.last = None if kind == "probe" else nn.Linear(hidden if kind == "mlp" else width, classes)
        self.trust = nn.Linear(width, 1) if self.reads_base else None
        for layer in (self.last, self.trust):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        if kind == "probe":
            with torch.no_grad():
                next(self.stage.parameters()).zero_()

    def forward(self, contexts: Tensor | SparseContexts, base: Tensor) -> Tensor:
        """Return logits of all ids."""
        if isinstance(contexts, Tensor) and self.state is None:
            contexts = rms_norm(contexts)
        x = self.stage(contexts)
        if self.last is None:
            return base + x.index_select(1, self.class_of)
        x = rms_norm(x)
        if self.reads_base:
            x = torch.cat([x, sureness(base)], dim=1)
        weighed = base if self.trust is None else base * (1 + self.trust(x))
        if self.inner is not None:
            x = rms_norm(F.relu(self.inner(x)).square())
        return weighed + self.last(x).index_select(1, self.class_of)

    def select(self, block: Block, project: Callable[[Block], Tensor | SparseContexts]) -> Tensor | SparseContexts:
        """Return what it reads of a block: what was captured itself, or what `project` gives."""
        if self.state is None:
            return project(block)
        assert block.raw is not None
        return block.raw[:, self.state]

    def groups(self, config: DistillConfig) -> list[dict[str, Any]]:
        """Return parameters with their share of the rate; a first stage has that of the field's."""
        share = config.table_rate if isinstance(self.stage, TableStage) else config.stage1_rate
        if self.kind in {"probe", "state"}:
            share = 1.0
        rest = [p for name, p in self.named_parameters() if not name.startswith("stage.")]
        groups = [{"params": list(self.stage.parameters()), "share": share}, {"params": rest, "share": 1.0}]
        return [group for group in groups if group["params"]]


def last_state(spec: CaptureSpec, window: int) -> slice:
    """Return where in a raw window the vector stands that the teacher's head reads at its last position."""
    streams = {stream.name: stream for stream in spec.streams}
    hidden, width = streams["hidden"], streams["embeddings"].width
    end = (window - 1) * spec.width + hidden.offset + hidden.width
    return slice(end - width, end)


def train_head(
    head: Head,
    student: Student,
    reader: BlockReader,
    config: DistillConfig,
    seconds: float,
    rate: float,
) -> dict[str, float]:
    """Train for so many seconds with the contexts, batches, loss and schedule of the field."""
    optimizer = torch.optim.AdamW(head.groups(config), lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    began, step, share = time.perf_counter(), 0, 0.0
    epoch = reader.batches_per_epoch(config.batch_size)
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"] * rate_fraction(share, step)
        block = reader.batch(step, config.batch_size, config.seed)
        t = block.targets
        losses, _ = distillation_loss(
            head(head.select(block, student.contexts), student.base(block)).log_softmax(1),
            *(torch.from_numpy(part) for part in (t.next_ids, t.top_ids, t.top_log_probs, t.tail_log_mass)),
            config.hard,
        )
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        optimizer.step()
        step += 1
        share = max((time.perf_counter() - began) / seconds, step / (config.max_epochs * epoch))
    spent = round(time.perf_counter() - began, 2)
    return {"steps": step, "seconds": spent, "parameters": sum(p.numel() for p in head.parameters())}


def inputs(model: FieldModel, block: Block) -> Tensor:
    """Return the projected contexts of a block, mixed."""
    return model.projection(last_windows(block.past, block.ids, model.config.window), block.raw)


def base_of(model: FieldModel, block: Block) -> Tensor:
    """Return the log-probabilities that everything here starts from."""
    return model.base.read(block.past, block.ids).flatten(0, 1)


@torch.no_grad()
def score_head(head: Head, model: FieldModel, reader: BlockReader, tokenizer: Tokenizer) -> dict[str, float]:
    """Return bits per byte and KL to the teacher on a captured text."""

    def project(block: Block) -> Tensor | SparseContexts:
        return model.project_block(block.past, block.ids, block.raw)

    nats, kl, came = [], [], []
    for block in reader.in_order(256):
        t = block.targets
        contexts = head.select(block, project)
        logs = head(contexts, base_of(model, block)).log_softmax(1)
        nats.append(-logs.gather(1, torch.from_numpy(t.next_ids)[:, None])[:, 0].numpy())
        parts = [torch.from_numpy(part) for part in (t.top_ids, t.top_log_probs, t.tail_log_mass)]
        kl.append(divergence(logs, *parts).numpy())
        came.append(t.next_ids)
    ids = np.concatenate(came)
    return {"bits_per_byte": bits_per_byte(np.concatenate(nats), ids, tokenizer.num_bytes), "kl": mean(kl)}


def mean(parts: list[np.ndarray]) -> float:
    """Return the mean over all positions."""
    return float(np.concatenate(parts).mean(dtype=np.float64))


@torch.no_grad()
def score_neighbours(
    model: FieldModel, train: BlockReader, scored: BlockReader, tokenizer: Tokenizer
) -> dict[str, Any]:
    """kNN-LM (Khandelwal et al. 2020, arXiv 1911.00172) over the same contexts, mixed with the base.

    Weight and temperature are tuned on the first fifth of the scored text, which favours this control.
    """
    step = max(1, len(train.capture) // MAX_KEYS)
    blocks = train.in_order(256)
    keys, values = [], []
    for block in blocks:
        rows = slice(None, None, step)
        keys.append(F.normalize(inputs(model, block)[rows], dim=1))
        values.append(torch.from_numpy(block.targets.next_ids[rows]))
    table, following = torch.cat(keys), torch.cat(values)
    grid = [(w, t) for w in WEIGHTS for t in TEMPERATURES]
    nats: list[Tensor] = []
    came: list[np.ndarray] = []
    for block in scored.in_order(256):
        wanted = torch.from_numpy(block.targets.next_ids)
        near, at = (F.normalize(inputs(model, block), dim=1) @ table.T).topk(min(NEIGHBOURS, len(table)), dim=1)
        own = base_of(model, block).gather(1, wanted[:, None])[:, 0].exp()
        hits = (following[at] == wanted[:, None]).float()
        found = {t: (torch.softmax(near / t, dim=1) * hits).sum(1) for t in TEMPERATURES}
        nats.append(torch.stack([-((1 - w) * own + w * found[t]).log() for w, t in grid], dim=1))
        came.append(block.targets.next_ids)
    every = torch.cat(nats)
    best = int(every[: max(1, len(every) // 5)].mean(0).argmin())
    bits = bits_per_byte(every[:, best].numpy(), np.concatenate(came), tokenizer.num_bytes)
    return {"bits_per_byte": bits, "weight": grid[best][0], "temperature": grid[best][1], "keys": len(table)}

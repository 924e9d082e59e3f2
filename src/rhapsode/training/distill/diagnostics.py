"""Where information is lost between a context and its logits: six figures, each with a bound and a remedy.

1. projection: does it keep lengths and angles?
2. coverage: how many units answer, and how unevenly?
3. divergence: for which ids is the field far from its teacher?
4. coupling: how much of the teacher can be read off the first stage's numbers, in a line?
5. relocation: do moved units lower the loss where they went, more than time alone does?
6. waking: do contexts that were never seen reach units that were idle?

Shape letters: N contexts, H numbers between the stages, Z projected numbers, U units, V classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.models.field.contexts import last_windows
from rhapsode.models.field.model import FieldModel
from rhapsode.nn.field import UnitStatistics
from rhapsode.ops.statistics import ratio_interval
from rhapsode.runfolder import RunFolder
from rhapsode.training.distill.blocks import BlockReader
from rhapsode.training.distill.losses import divergence
from rhapsode.training.distill.scoring import Scored, score_blocks
from rhapsode.training.distill.student import class_targets
from rhapsode.training.metrics import MetricsLog

MAX_DROP = 0.1
"""Loss of variance or of cosine past which a projection is too small."""
MAX_GINI = 0.9
MIN_COUPLING = 0.8
"""Share of what can be read off the projection that the first stage must keep."""
MAX_WOKEN = 0.2
MAX_RARE_KL = 3.0
"""Divergence of the rarest ids over that of all."""
FREQUENCY_BOUNDS = (10, 100, 1000)
_RIDGE = (1e-1, 1e1, 1e3)
_FOLDS = 5
_REGRESSION_ROWS = 2048
_REGRESSION_CLASSES = 256
_PAIRS = 256


@dataclass
class Diagnostic:
    """One figure: `value` with its interval if there is one, what a plot needs, and a warning past the bound."""

    name: str
    value: float | None
    n: int
    interval: tuple[float, float] | None = None
    bound: str = ""
    warning: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    plot: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return a row of the table."""
        value: dict[str, Any] = {"value": self.value, "n": self.n}
        if self.interval is not None:
            value["interval"] = list(self.interval)
        return {"diagnostic": self.name, "figure": value, "bound": self.bound, "warning": self.warning}


def diagnose(
    model: FieldModel,
    validation: BlockReader,
    statistics: UnitStatistics,
    folder: RunFolder,
    train_ids: np.ndarray,
    limit: int,
) -> list[Diagnostic]:
    """Return all six, on at most `limit` positions of text that the field has not learnt."""
    scored = list(score_blocks(model, validation, limit))
    return [
        projection_quality(model, validation),
        coverage(model, scored),
        divergence_by_frequency(model, scored, train_ids),
        coupling(model, scored),
        relocation_gain(folder),
        waking(statistics, scored),
    ]


@torch.no_grad()
def projection_quality(model: FieldModel, reader: BlockReader) -> Diagnostic:
    """Compare lengths and angles of contexts before and after the projection.

    The figure is the worse of two drops: that of the mean squared length, and that of the correlation between the
    cosines of pairs before and after.
    """
    size = min(_PAIRS, len(reader.capture))
    places = np.linspace(0, len(reader.capture) - 1, size).astype(int).tolist()
    block = reader.block(places, 1)
    windows = last_windows(block.past, block.ids, model.config.window)
    before = model.projection.indicators(windows, block.raw)
    after = model.projection.statistics(windows, block.raw)
    ratio = float(after.square().sum() / before.square().sum())
    upper = torch.triu_indices(size, size, offset=1)
    pairs = [_cosines(rows)[upper[0], upper[1]] for rows in (before, after)]
    kept = float(torch.corrcoef(torch.stack(pairs))[0, 1]) if size > 2 else 1.0
    per_dimension = after.var(dim=0) if size > 1 else after.square()[0]
    drop = max(abs(1 - ratio), 1 - kept)
    warning = None
    if drop > MAX_DROP:
        warning = f"the projection loses {drop:.0%}: widen it with --dim {2 * model.config.dim} or --views 2"
    return Diagnostic(
        "projection",
        drop,
        size,
        bound=f"at most {MAX_DROP:.0%}",
        warning=warning,
        details={
            "variance_ratio": ratio,
            "cosine_correlation": kept,
            "mean_abs_cosine_error": float((pairs[0] - pairs[1]).abs().mean()),
            "variance_of_dimensions": float(per_dimension.mean()),
        },
        plot={"before": pairs[0].numpy(), "after": pairs[1].numpy(), "per_dimension": per_dimension.numpy()},
    )


def coverage(model: FieldModel, scored: Sequence[Scored]) -> Diagnostic:
    """Count how often each unit is among the active ones, and how unevenly they share the work (Gini)."""
    units = model.field.num_units
    counts = torch.zeros(units)
    shares = torch.zeros(units)
    distances = torch.zeros(units)
    for one in scored:
        flat = one.output.ids.reshape(-1)
        counts.index_add_(0, flat, torch.ones(len(flat)))
        shares.index_add_(0, flat, one.output.parts.weights.float().reshape(-1))
        distances.index_add_(0, flat, one.output.parts.distances.float().abs().reshape(-1))
    value = gini(shares.numpy())
    contexts = sum(len(one.h) for one in scored)
    warning = None
    if value > MAX_GINI:
        warning = "few units do all the work: use fewer --units, or try training.relocate=true"
    return Diagnostic(
        "coverage",
        value,
        contexts,
        bound=f"at most {MAX_GINI}",
        warning=warning,
        details={
            "active_units": int((counts > 0).sum()),
            "units": units,
            "mean_abs_distance": float(distances.sum() / counts.sum()),
        },
        plot={"frequency": (counts / contexts).numpy()},
    )


def gini(values: Float[np.ndarray, " U"]) -> float:
    """Return the Gini coefficient: 0 where all are alike, near 1 where one has everything.

    >>> round(gini(np.ones(4)), 6), round(gini(np.array([0.0, 0.0, 0.0, 1.0])), 6)
    (0.0, 0.75)
    """
    ordered = np.sort(values.astype(np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float((ranks * ordered).sum() / (len(ordered) * total))


def divergence_by_frequency(model: FieldModel, scored: Sequence[Scored], train_ids: np.ndarray) -> Diagnostic:
    """Return KL to the teacher by how often the id that came stands in the training text."""
    counts = np.bincount(train_ids, minlength=model.shortlist.vocab_size)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    kl, came = [], []
    for one in scored:
        t = one.block.targets
        parts = [torch.from_numpy(part) for part in (t.top_ids, t.top_log_probs, t.tail_log_mass)]
        kl.append(divergence(one.log_probs, *parts).numpy())
        came.append(t.next_ids)
    every, ids = np.concatenate(kl), np.concatenate(came)
    group = np.searchsorted(FREQUENCY_BOUNDS, rank[ids], side="right")
    names = _group_names()
    rows: list[dict[str, Any]] = [
        {"rank": names[number], "n": int((group == number).sum()), "kl": float(every[group == number].mean())}
        for number in range(len(names))
        if (group == number).any()
    ]
    mean = float(every.mean(dtype=np.float64))
    warning = None
    if rows[-1]["kl"] > MAX_RARE_KL * mean:
        warning = "rare ids are far from the teacher: raise --vocab-limit or model.field.rank, or use more --units"
    low, high = ratio_interval(every.astype(np.float64), np.ones(len(every)))
    return Diagnostic(
        "divergence",
        mean,
        len(every),
        (low, high),
        bound=f"rarest ids at most {MAX_RARE_KL:g} times the mean",
        warning=warning,
        details={"by_rank": rows},
        plot={"rows": rows},
    )


@torch.no_grad()
def coupling(model: FieldModel, scored: Sequence[Scored]) -> Diagnostic:
    """Return the cross-validated R^2 of a ridge regression from the first stage's numbers to the teacher's logits.

    A lower bound, in a line, of what one tells of the other. The teacher's logits are its log-probabilities as they
    were captured, of the most frequent classes. Beside it the same from all projected numbers.
    """
    h = torch.cat([one.h for one in scored])
    every = max(1, len(h) // _REGRESSION_ROWS)
    rows, projected, goals = [], [], []
    for one in scored:
        step = slice(None, None, every)
        block = one.block
        z = model.projection(last_windows(block.past, block.ids, model.config.window), block.raw)
        rows.append(one.h[step].clone())
        projected.append(z[step].clone())
        base = one.base.new_full((len(z), model.shortlist.num_classes), -np.log(model.shortlist.num_classes))
        goals.append(class_targets(block.targets, model, base, 0.0).clamp_min(1e-9).log()[step, :_REGRESSION_CLASSES])
    wanted = torch.cat(goals).double()
    of_h = ridge_r2(torch.cat(rows).double(), wanted)
    of_z = ridge_r2(torch.cat(projected).double(), wanted)
    warning = None
    if of_h < MIN_COUPLING * of_z:
        warning = "the first stage drops what the projection knows: raise model.stage1_dim or its units, or --dim"
    return Diagnostic(
        "coupling",
        of_h,
        len(wanted),
        bound=f"at least {MIN_COUPLING:g} of the projection's own",
        warning=warning,
        details={"of_projection": of_z},
        plot={"names": ["projection", "first stage"], "values": [of_z, of_h]},
    )


def ridge_r2(x: Float[Tensor, "N Z"], y: Float[Tensor, "N V"], ridges: Sequence[float] = _RIDGE) -> float:
    """Return the best cross-validated R^2 over a few ridges, pooled over all outputs. O(folds N^3).

    Folds are contiguous, since neighbours are alike.
    """
    folds = min(_FOLDS, len(x))
    if folds < 2:
        return 0.0
    edges = np.linspace(0, len(x), folds + 1).astype(int)
    errors, total = np.zeros(len(ridges)), 0.0
    for begin, end in pairwise(edges):
        keep = torch.ones(len(x), dtype=torch.bool)
        keep[begin:end] = False
        mean_x, mean_y = x[keep].mean(0), y[keep].mean(0)
        seen, other = x[keep] - mean_x, x[begin:end] - mean_x
        values, vectors = torch.linalg.eigh(seen @ seen.T)
        inner = vectors.T @ (y[keep] - mean_y)
        cross = other @ seen.T @ vectors
        scale = float(values.clamp_min(0).mean()) + 1e-12
        for number, ridge in enumerate(ridges):
            guess = cross @ (inner / (values.clamp_min(0) + ridge * scale)[:, None])
            errors[number] += float((y[begin:end] - mean_y - guess).square().sum())
        total += float((y[begin:end] - mean_y).square().sum())
    return float(1 - errors.min() / total) if total else 0.0


def relocation_gain(folder: RunFolder) -> Diagnostic:
    """Compare moved units' contexts with queued contexts of like loss that no unit went to, one round later."""
    events = read_relocations(folder)
    done = [e for e in events if e["later"] is not None and e["control_later"] is not None]
    gains = np.array([(e["before"] - e["later"]) - (e["control_before"] - e["control_later"]) for e in done])
    at_once = np.array([e["before"] - e["after"] for e in events])
    name = "relocation"
    if len(gains) < 2:
        return Diagnostic(
            name, None, len(gains), bound="above 0", details={"moves": len(events)}, plot={"gains": gains}
        )
    half = 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    mean = float(gains.mean())
    warning = None
    if mean - half <= 0:
        warning = "moved units did not help more than training did: set training.relocate=false or move fewer"
    return Diagnostic(
        name,
        mean,
        len(gains),
        (mean - half, mean + half),
        bound="above 0",
        warning=warning,
        details={"moves": len(events), "gain_at_once": float(at_once.mean())},
        plot={"gains": gains},
    )


def read_relocations(folder: RunFolder) -> list[dict[str, Any]]:
    """Read every move of a run from its metrics."""
    return [row["relocation"] for row in MetricsLog(folder).rows() if "relocation" in row]


def waking(statistics: UnitStatistics, scored: Sequence[Scored]) -> Diagnostic:
    """Return the share of unseen contexts that reach a unit which was idle at the end of training."""
    shares = np.array([statistics.woken(one.output.ids) for one in scored])
    sizes = np.array([len(one.output.ids) for one in scored], dtype=np.float64)
    value = float((shares * sizes).sum() / sizes.sum())
    warning = None
    if value > MAX_WOKEN:
        warning = "many new contexts reach units that learnt nothing: train longer, or use fewer --units"
    return Diagnostic(
        "waking",
        value,
        int(sizes.sum()),
        bound=f"at most {MAX_WOKEN:.0%}",
        warning=warning,
        plot={"shares": shares, "sizes": sizes},
    )


def _cosines(rows: Float[Tensor, "N Z"]) -> Float[Tensor, "N N"]:
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    return unit @ unit.T


def _group_names() -> list[str]:
    edges = [0, *FREQUENCY_BOUNDS]
    return [f"{low + 1} to {high}" for low, high in pairwise(edges)] + [f"past {edges[-1]}"]

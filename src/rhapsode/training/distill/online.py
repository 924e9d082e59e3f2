"""A field that keeps learning from the text it reads: every stretch is scored first and learnt then.

Beside it stands what counting alone gains by the same: n-gram counts that keep growing (the cache of Kuhn & De Mori
1990, at all orders).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhapsode.memory.ngram_memory import NgramMemory, NgramReader
from rhapsode.models.field.contexts import SparseContexts
from rhapsode.models.field.model import FieldModel
from rhapsode.training.distill.blocks import Block, BlockReader
from rhapsode.training.distill.config import DistillConfig
from rhapsode.training.distill.student import parameter_groups

# the number under which counts of the read text are kept; the base has no rows of its own.
_ROW = 1


@dataclass(frozen=True)
class OnlineScores:
    """Nats of every position.

    Attributes:
        next_ids: what came.
        field: of the field as it was.
        online: of the field that learns, over counts that stay.
        base: of the counts that stay, alone.
        cache: of counts that grow, alone; as `base` where nothing is counted.
        both: of the field that learns, over counts that grow.
    """

    next_ids: np.ndarray
    field: np.ndarray
    online: np.ndarray
    base: np.ndarray
    cache: np.ndarray
    both: np.ndarray


class OnlineField:
    """A copy of a model that learns; the model itself stays as it is."""

    def __init__(self, model: FieldModel, config: DistillConfig, rate: float) -> None:
        """Copy the parameters, float32, and start an optimizer; parts learn at their shares of the rate."""
        copy = FieldModel(model.config, model.shortlist, model.base, model.projection, model.source)
        copy.load_state_dict(model.state_dict())
        self.model = copy.requires_grad_(True)
        groups = parameter_groups(copy, config)
        for group in groups:
            group |= {"lr": rate * group["share"], "weight_decay": 0.0}
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)

    def score_and_learn(self, projected: Tensor | SparseContexts, base: Tensor, next_ids: Tensor) -> Tensor:
        """Return the nats of each position by what was known before them, and learn from all of them then. Mutates."""
        logits = self.model.combine(self.model.stage_one(projected, base), base)
        nats = F.cross_entropy(logits, next_ids, reduction="none")
        self._optimizer.zero_grad(set_to_none=True)
        nats.mean().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.model.project_parameters()
        return nats.detach()


def adapt(
    model: FieldModel, reader: BlockReader, config: DistillConfig, rate: float, limit: int | None = None
) -> OnlineScores:
    """Read a text front to back, some positions at a time, static and learning. O(N) updates of two copies.

    Args:
        config: has the parts' shares of the rate, and the positions that are scored before they are learnt.
        rate: of the field that learns; a part learns at its share of it.
    """
    learner, over_cache = OnlineField(model, config, rate), OnlineField(model, config, rate)
    columns: list[list[np.ndarray]] = [[] for _ in range(6)]
    growing = _growing(model, reader)
    for block in reader.in_order(config.online_block, limit):
        came = torch.from_numpy(block.targets.next_ids)
        with torch.no_grad():
            projected = model.project_block(block.past, block.ids, block.raw)
            base = model.base.read(block.past, block.ids).flatten(0, 1)
            static = model.combine(model.stage_one(projected, base), base)
        cache = _read(growing, block, base)
        parts = [
            block.targets.next_ids,
            F.cross_entropy(static, came, reduction="none").numpy(),
            learner.score_and_learn(projected, base, came).numpy(),
            F.nll_loss(base, came, reduction="none").numpy(),
            F.nll_loss(cache, came, reduction="none").numpy(),
            over_cache.score_and_learn(projected, cache, came).numpy(),
        ]
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    return OnlineScores(*(np.concatenate(column) for column in columns))


def _growing(model: FieldModel, reader: BlockReader) -> NgramReader | None:
    if model.base.ngrams is None:
        return None
    counts = NgramMemory(model.base.ngrams, model.shortlist.vocab_size).reader(learn_as=_ROW)
    counts.read(reader.capture.ids[:1])
    return counts


def _read(growing: NgramReader | None, block: Block, base: Tensor) -> Tensor:
    if growing is None:
        return base
    return torch.from_numpy(growing.read(block.targets.next_ids).log_probabilities)

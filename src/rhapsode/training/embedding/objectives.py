"""What an embedding is trained towards. Each objective gives a loss for a batch, and candidates to be ranked."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.ops.contrastive import (
    MAX_LOGITS,
    bounded_log_variance,
    cosine_loss,
    infonce,
    infonce_sampled,
    inverse_variance,
    log_det,
    off_diagonal,
    squared_magnitude,
)
from rhapsode.training.embedding.config import EmbeddingConfig
from rhapsode.training.embedding.data import Pairs

_ALL_UP_TO = 8_192
_SAMPLE = 4_096
# marks the random stream of negatives, apart from that of batches.
_NEGATIVES = 1
_SPECTRAL = {"log_variance": bounded_log_variance, "log_det": log_det, "covariance": off_diagonal}


@dataclass(frozen=True)
class Scores:
    """Summed over a batch: nats of the target among all candidates, how often it came first, and in the first five."""

    nats: float
    top1: int
    top5: int
    count: int


class Target(ABC):
    """An objective."""

    leaves_itself_out = False
    """Whether what is asked is no candidate for itself, unless it is what is wanted."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config

    @abstractmethod
    def candidates(self, embedding: HolographicEmbedding) -> Float[Tensor, "C D"]:
        """Return the vectors among which each target has to be found."""

    @abstractmethod
    def loss(self, embedding: HolographicEmbedding, pairs: Pairs, step: int) -> Float[Tensor, ""]:
        """Return the loss of a batch; random choices are those of the step."""

    def closed_form(self, embedding: HolographicEmbedding) -> Float[Tensor, "C D"] | None:
        """Return the vectors whose superposition is the closed-form answer, if there is one."""
        return None

    @torch.no_grad()
    def score(self, embedding: HolographicEmbedding, pairs: Pairs) -> Scores:
        """Rank every target among all candidates, without sampling, in chunks of bounded size."""
        directions = F.normalize(self.candidates(embedding), dim=-1)
        queries = F.normalize(embedding(pairs.inputs), dim=-1)
        nats, top1, top5 = 0.0, 0, 0
        at_once = max(1, MAX_LOGITS // len(directions))
        parts = (torch.split(part, at_once) for part in (queries, pairs.inputs, pairs.targets))
        for rows, asked, wanted in zip(*parts, strict=True):
            logits = rows @ directions.T / self.config.temperature
            if self.leaves_itself_out:
                logits[torch.arange(len(rows)), asked] += torch.where(asked == wanted, 0.0, -torch.inf)
            nats += float(F.cross_entropy(logits, wanted, reduction="sum"))
            hits = logits.topk(min(5, len(directions)), dim=1).indices == wanted[:, None]
            top1, top5 = top1 + int(hits[:, 0].sum()), top5 + int(hits.any(1).sum())
        return Scores(nats, top1, top5, len(queries))

    def _spectral(self, vectors: Tensor) -> Tensor:
        return self.config.spectral_weight * _SPECTRAL[self.config.spectral](vectors)


class Addressing(Target):
    """Find the id's own key among all keys: a test of capacity that an identity in every bundle solves."""

    def __init__(self, config: EmbeddingConfig, embedding: HolographicEmbedding) -> None:
        super().__init__(config)
        self.table = embedding.keys()

    def candidates(self, embedding: HolographicEmbedding) -> Float[Tensor, "C D"]:
        """Return the table: the keys."""
        return self.table

    def closed_form(self, embedding: HolographicEmbedding) -> Float[Tensor, "C D"]:
        """Return the same."""
        return self.table

    def loss(self, embedding: HolographicEmbedding, pairs: Pairs, step: int) -> Float[Tensor, ""]:
        """InfoNCE over the table or a sample of it, a cosine term and a spectral term."""
        vectors = embedding(pairs.inputs)
        total = self._contrast(vectors, pairs.targets, step)
        total = total + self.config.cosine_weight * cosine_loss(vectors, self.table[pairs.targets])
        return total + self._spectral(vectors)

    def _contrast(self, vectors: Tensor, targets: Tensor, step: int) -> Tensor:
        size = len(self.table)
        sample = self.config.negatives
        if sample is None:
            sample = 0 if size <= _ALL_UP_TO else _SAMPLE
        if sample == 0:
            return infonce(vectors, self.table, targets, self.config.temperature)
        # the generator's stream is the step's alone, so that a resume draws what it would have drawn.
        generator = np.random.default_rng([self.config.seed, step, _NEGATIVES])
        drawn = torch.from_numpy(generator.integers(0, size, sample))
        expected = vectors.new_full((sample,), sample / size).log()
        same = drawn == targets[:, None]
        return infonce_sampled(vectors, self.table[targets], self.table[drawn], expected, same, self.config.temperature)


class Old(Addressing):
    """Squared magnitude plus inverse variance: no signal at all; kept to be compared with."""

    def loss(self, embedding: HolographicEmbedding, pairs: Pairs, step: int) -> Float[Tensor, ""]:
        """Return the older loss."""
        vectors = embedding(pairs.inputs)
        return squared_magnitude(vectors) + inverse_variance(vectors)


class Distil(Addressing):
    """Come near the vectors of an existing table; scores rank the id's own row among all rows."""

    def __init__(self, config: EmbeddingConfig, embedding: HolographicEmbedding, teacher: Float[Tensor, "C D"]) -> None:
        if teacher.shape != (embedding.vocab_size, embedding.algebra.dim):
            raise UserError(
                f"--teacher must have a table of the embedding's size; got {tuple(teacher.shape)} and "
                f"{(embedding.vocab_size, embedding.algebra.dim)}. Leave --vocab-size and --embedding-dim out."
            )
        super().__init__(config, embedding)
        self.table = teacher.detach().float()
        self._spread = self.table.var(unbiased=False)

    def loss(self, embedding: HolographicEmbedding, pairs: Pairs, step: int) -> Float[Tensor, ""]:
        """Mean squared error over the teacher's variance, plus a cosine term."""
        vectors, wanted = embedding(pairs.inputs), self.table[pairs.targets]
        error = (vectors - wanted).square().mean() / self._spread
        total: Tensor = error + self.config.cosine_weight * cosine_loss(vectors, wanted)
        return total

    @torch.no_grad()
    def relative_error(self, embedding: HolographicEmbedding) -> float:
        """Return the squared error of all rows over their variance: 0 is a copy, 1 no better than their mean."""
        error = (embedding.weight - self.table).square().mean()
        return float(error / self._spread)


class SkipGram(Target):
    """Find a neighbour in text: in-batch negatives, corrected for how frequent each is.

    A token is no negative of itself: its own vector is always the nearest, and would hide every neighbour.
    """

    leaves_itself_out = True

    def __init__(self, config: EmbeddingConfig, counts: Int[Tensor, " C"]) -> None:
        super().__init__(config)
        self._log_shares = torch.log((counts.float() + 1) / (counts.sum() + len(counts)))

    def candidates(self, embedding: HolographicEmbedding) -> Float[Tensor, "C D"]:
        """Return the embedding's own vectors."""
        return embedding.weight

    def loss(self, embedding: HolographicEmbedding, pairs: Pairs, step: int) -> Float[Tensor, ""]:
        """InfoNCE of each neighbour against those of the others in the batch, and a spectral term."""
        both = embedding(torch.cat([pairs.inputs, pairs.targets]))
        vectors, others = both.chunk(2)
        # masked below: every other occurrence of a row's neighbour, and of the row's token itself.
        expected = self._log_shares[pairs.targets] + torch.log(torch.tensor(float(len(others))))
        same = (pairs.targets == pairs.targets[:, None]) | (pairs.targets == pairs.inputs[:, None])
        nats = infonce_sampled(vectors, others, others, expected, same, self.config.temperature)
        total: Tensor = nats + self._spectral(both)
        return total

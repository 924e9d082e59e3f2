"""Training of the matcher and of the prototypical network; needs torch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rhapsode.evaluation.oneshot.features import NUM_BUCKETS
from rhapsode.evaluation.oneshot.matcher import Bags, Ensemble, Matcher, MatcherConfig, Pair, WordVectors

_SCALE = 2.5
_LEAST_RATE = 0.02
_CONTEXT_DEVIATION = 0.05


class DualEncoder(nn.Module):
    """Two bags for each text: content words, normalised and for queries projected; and hashed features."""

    def __init__(self, vectors: WordVectors, config: MatcherConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.content = nn.Parameter(torch.from_numpy(vectors.vectors.copy()))
        self.log_weights = nn.Parameter(torch.from_numpy(np.log(np.maximum(vectors.idf, 0.3)).astype(np.float32)))
        self.projection = nn.Parameter(torch.eye(vectors.vectors.shape[1]))
        self.log_scale = nn.Parameter(torch.tensor(_SCALE))
        shape = (NUM_BUCKETS, config.context_width)
        self.entry_features = nn.Parameter(torch.randn(shape, generator=generator) * _CONTEXT_DEVIATION)
        self.query_features = nn.Parameter(torch.randn(shape, generator=generator) * _CONTEXT_DEVIATION)
        self._dropout, self._generator = config.dropout, generator

    def scores(self, entries: Sequence[Bags], queries: Sequence[Bags]) -> Float[Tensor, "Q N"]:
        """Return the score of every query with every entry, in nats."""
        left = self._content(queries) @ self.projection
        content = left @ self._content(entries).T * self.log_scale.exp()
        around = self._features(queries, self.query_features) @ self._features(entries, self.entry_features).T
        return content + around

    def export(self, ids: dict[str, int]) -> Matcher:
        """Return what has been learnt as arrays."""
        with torch.no_grad():
            return Matcher(
                ids,
                self.content.detach().numpy(),
                self.log_weights.exp().numpy(),
                (self.projection * self.log_scale.exp()).numpy(),
                self.entry_features.detach().numpy(),
                self.query_features.detach().numpy(),
            )

    def _content(self, bags: Sequence[Bags]) -> Tensor:
        ids, starts = flatten([bag.content for bag in bags])
        weights = self.log_weights[ids].exp() * self._keep(len(ids))
        return F.normalize(sum_rows(ids, self.content, starts, weights), dim=1)

    def _features(self, bags: Sequence[Bags], table: Tensor) -> Tensor:
        ids, starts = flatten([bag.features for bag in bags])
        return sum_rows(ids, table, starts, self._keep(len(ids)))

    def _keep(self, number: int) -> Tensor:
        kept = torch.rand(number, generator=self._generator) >= self._dropout
        return kept.float() / (1 - self._dropout)


def train_ensemble(pairs: Sequence[Pair], vectors: WordVectors, config: MatcherConfig) -> Ensemble:
    """Train `config.members` matchers from seeds `config.seed` on."""
    seeds = range(config.seed, config.seed + config.members)
    return Ensemble([train_matcher(pairs, vectors, config.model_copy(update={"seed": seed})) for seed in seeds])


def train_matcher(pairs: Sequence[Pair], vectors: WordVectors, config: MatcherConfig) -> Matcher:
    """Train on every sentence of the corpus, against the glosses of its batch, half with another sentence beside it.

    Costs O(sentences (batch + words) width) a pass: about ten seconds for all of WordNet.
    """
    model = DualEncoder(vectors, config)
    # a batch touches few rows of the tables: only those are updated.
    rates = [config.learning_rate, config.context_rate, config.learning_rate]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam([model.content]),
        torch.optim.SparseAdam([model.entry_features, model.query_features]),
        torch.optim.Adam([model.log_weights, model.projection, model.log_scale]),
    ]
    batches = list(make_batches(pairs, config))
    for step, (entries, queries, senses) in enumerate(batches):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * max(_LEAST_RATE, 1 - step / len(batches))
        same = (senses[:, None] == senses[None]) & ~torch.eye(len(senses), dtype=torch.bool)
        scores = model.scores(entries, queries).masked_fill(same, float("-inf"))
        right = torch.arange(len(senses))
        loss = F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
    return model.export(vectors.ids)


def make_batches(pairs: Sequence[Pair], config: MatcherConfig) -> Iterator[tuple[list[Bags], list[Bags], Tensor]]:
    """Yield entries, queries and the numbers of their senses, every sentence once an epoch as a query."""
    random = np.random.default_rng(config.seed)
    examples = [(number, place) for number, pair in enumerate(pairs) for place in range(len(pair.usages))]
    size = min(config.batch_size, len(examples))
    for _ in range(config.epochs):
        order = random.permutation(len(examples))
        for start in range(0, len(examples) - size + 1, size):
            chosen = [examples[i] for i in order[start : start + size]]
            entries = []
            for number, place in chosen:
                pair = pairs[number]
                rest = [usage for i, usage in enumerate(pair.usages) if i != place]
                entry = pair.gloss
                if rest and random.random() < 0.5:
                    usage = rest[random.integers(len(rest))]
                    entry = Bags(entry.content + usage.content, entry.features + usage.features)
                entries.append(entry)
            queries = [pairs[number].usages[place] for number, place in chosen]
            yield entries, queries, torch.tensor([number for number, _ in chosen])


def sum_rows(ids: Tensor, table: Tensor, starts: Tensor, weights: Tensor) -> Float[Tensor, "B D"]:
    """Return the weighted sum of the table's rows of each list; the gradient of the table is sparse."""
    out: Tensor = F.embedding_bag(ids, table, starts, mode="sum", per_sample_weights=weights, sparse=True)
    return out


def flatten(lists: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return lists one after another, and where each begins: what `embedding_bag` wants."""
    sizes = [len(one) for one in lists]
    starts = np.cumsum([0, *sizes[:-1]])
    return torch.tensor([i for one in lists for i in one], dtype=torch.long), torch.from_numpy(starts)

"""Controls that train on the words they are taught, or to learn from few: fine-tuning, replay, prototypes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rhapsode.evaluation.oneshot.features import content_ids
from rhapsode.evaluation.oneshot.matcher import Bags, MatcherConfig, Pair, WordVectors
from rhapsode.evaluation.oneshot.matcher_training import flatten, make_batches, sum_rows
from rhapsode.evaluation.oneshot.wordnet_task import Entry, Query

_CHUNKS = 10
_EPOCHS = 8
_BATCH = 64
_RATE = 3e-3
_SHARPNESS = 12.0


class BagEncoder(nn.Module):
    """A weighted sum of word vectors, of unit length, projected; it starts from counted vectors and their idf."""

    def __init__(self, vectors: WordVectors) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.from_numpy(vectors.vectors.copy()))
        self.log_weights = nn.Parameter(torch.from_numpy(np.log(np.maximum(vectors.idf, 0.3)).astype(np.float32)))
        self.projection = nn.Parameter(torch.eye(vectors.vectors.shape[1]) * _SHARPNESS**0.5)

    def forward(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "B D"]:
        """Encode lists of word ids."""
        ids, starts = flatten(rows)
        bags = sum_rows(ids, self.content, starts, self.log_weights[ids].exp())
        return F.normalize(bags, dim=1) @ self.projection

    def optimizers(self, rate: float, *others: Tensor) -> list[torch.optim.Optimizer]:
        """Return one for the table, of which a batch touches few rows, and one for the rest and for `others`."""
        dense: list[Tensor] = [self.log_weights, self.projection, *others]
        return [torch.optim.SparseAdam([self.content], lr=rate), torch.optim.Adam(dense, lr=rate)]


class PrototypicalNetwork:
    """Prototypes are means of encoded texts, compared by squared distance (Snell et al. 2017, arXiv 1703.05175).

    Trained on the same senses, sentences and steps as our matcher, from the same counted vectors.
    """

    def __init__(self, pairs: Sequence[Pair], vectors: WordVectors, config: MatcherConfig) -> None:
        self._ids = vectors.ids
        self._encoder = BagEncoder(vectors)
        self._prototypes: list[Tensor] = []
        optimizers = self._encoder.optimizers(config.learning_rate)
        for entries, queries, senses in make_batches(pairs, config):
            logits = -torch.cdist(self._encode(queries), self._encode(entries)).square()
            same = (senses[:, None] == senses[None]) & ~torch.eye(len(senses), dtype=torch.bool)
            loss = F.cross_entropy(logits.masked_fill(same, float("-inf")), torch.arange(len(senses)))
            _step(loss, optimizers)

    def copy(self) -> "PrototypicalNetwork":
        """Return one that is trained alike and taught nothing."""
        other = object.__new__(PrototypicalNetwork)
        other._ids, other._encoder, other._prototypes = self._ids, self._encoder, []
        return other

    def teach(self, entries: Sequence[Entry]) -> None:
        """Make a prototype of every entry: the mean over its gloss, its sentences and its name."""
        with torch.no_grad():
            for entry in entries:
                texts = [entry.gloss, *entry.usages, *([entry.name] if entry.name else [])]
                rows = [content_ids([text], self._ids) for text in texts]
                self._prototypes.append(self._encoder([row for row in rows if row] or [[]]).mean(dim=0))

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Return minus the squared distance to every prototype."""
        with torch.no_grad():
            encoded = self._encoder([content_ids([query.plain], self._ids) for query in queries])
            return -torch.cdist(encoded, torch.stack(self._prototypes)).square().numpy()

    def _encode(self, bags: Sequence[Bags]) -> Tensor:
        out: Tensor = self._encoder([bag.content for bag in bags])
        return out


class FineTuning:
    """A classifier over all taught words, trained on their texts in ten portions, one after the other.

    With `replay`, as many earlier texts as new ones are mixed into every portion (Robins 1995); without it, what came
    first is forgotten as it will be. Encoder and classifier are trained together from the counted vectors.
    """

    def __init__(self, vectors: WordVectors, *, replay: bool, seed: int) -> None:
        self._ids, self._replay, self._seed = vectors.ids, replay, seed
        self._encoder = BagEncoder(vectors)
        self._classifier: nn.Linear | None = None

    def teach(self, entries: Sequence[Entry]) -> None:
        """Train; it is taught once."""
        random = np.random.default_rng(self._seed)
        generator = torch.Generator().manual_seed(self._seed)
        width = self._encoder.projection.shape[1]
        classifier = self._classifier = nn.Linear(width, len(entries))
        nn.init.normal_(classifier.weight, std=width**-0.5, generator=generator)
        nn.init.zeros_(classifier.bias)
        optimizers = self._encoder.optimizers(_RATE, classifier.weight, classifier.bias)
        seen: list[tuple[list[int], int]] = []
        for portion in np.array_split(random.permutation(len(entries)), _CHUNKS):
            fresh = [example for number in portion.tolist() for example in self._examples(entries[number], number)]
            for _ in range(_EPOCHS):
                old = [seen[i] for i in random.integers(len(seen), size=len(fresh))] if self._replay and seen else []
                examples = fresh + old
                order = random.permutation(len(examples))
                for start in range(0, len(order), _BATCH):
                    batch = [examples[i] for i in order[start : start + _BATCH]]
                    logits = classifier(self._encoder([ids for ids, _ in batch]))
                    loss = F.cross_entropy(logits, torch.tensor([number for _, number in batch]))
                    _step(loss, optimizers)
            seen += fresh

    def scores(self, queries: Sequence[Query]) -> Float[np.ndarray, "Q N"]:
        """Return the logits of every word."""
        assert self._classifier is not None
        with torch.no_grad():
            encoded = self._encoder([content_ids([query.plain], self._ids) for query in queries])
            return np.asarray(self._classifier(encoded).numpy())

    def _examples(self, entry: Entry, number: int) -> list[tuple[list[int], int]]:
        texts = [entry.gloss, *entry.usages]
        if entry.name:
            texts = [f"{entry.name} {text}" for text in texts]
        return [(content_ids([text], self._ids), number) for text in texts]


def _step(loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()

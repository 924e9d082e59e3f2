"""A text classifier with a key-value memory: the encoder, gate and classifier that the trained presets share."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rhapsode.evaluation.oneshot.contracts import Answers, Story
from rhapsode.evaluation.oneshot.lexical import words_of
from rhapsode.evaluation.oneshot.presets import TrainingConfig
from rhapsode.memory.key_value import Hits, KeyValueMemory
from rhapsode.memory.policies import Policies, read_weights, writes
from rhapsode.nn.sentence_encoder import SentenceEncoder

_BATCH = 64
_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}


class Vocabulary:
    """Words to ids, and the words that can be answered to classes. Id 0 is padding."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self.ids = {word: i for i, word in enumerate(dict.fromkeys(w for t in texts for w in words_of(t)), start=1)}
        self.labels = list(dict.fromkeys(labels))
        self.classes = {label: i for i, label in enumerate(self.labels)}
        self.max_length = max(len(words_of(text)) for text in texts)

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return padded ids and where they are words; words that are not known are left out."""
        rows = [[self.ids[w] for w in words_of(text) if w in self.ids][: self.max_length] or [0] for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        sizes = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(length)[None] < sizes[:, None]


class Network(nn.Module):
    """Encoder, gate and classifier."""

    def __init__(self, vocabulary: Vocabulary, config: TrainingConfig, seed: int) -> None:
        super().__init__()
        width = config.width
        size = len(vocabulary.ids) + 1
        self.encoder = SentenceEncoder(size, width, config.num_layers, config.num_heads, vocabulary.max_length)
        self.gate = nn.Linear(2 * width, 1)
        self.classifier = nn.Linear(width, len(vocabulary.labels))
        generator = torch.Generator().manual_seed(seed)
        self.encoder.init_weights(generator)
        for layer in (self.gate, self.classifier):
            nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)


@dataclass(frozen=True, eq=False)
class Remembered:
    """The payload of an entry: the word, its value vector (D,) float32, and the story it came from."""

    word: str
    vector: Float[np.ndarray, " D"]
    story: Story


@dataclass
class Pass:
    """What one forward pass computed for B texts; `gates` (B, 1) and `hits` are None where there is no memory."""

    pooled: Tensor
    logits: Tensor
    gates: Tensor | None
    hits: Hits | None


class Learner:
    """A network with a memory of its own, or with none."""

    def __init__(
        self, vocabulary: Vocabulary, network: Network, policies: Policies | None, *, uses_memory: bool = True
    ) -> None:
        self.vocabulary, self.network = vocabulary, network
        self.policies = policies or Policies()
        width = network.classifier.in_features
        self.memory = KeyValueMemory(width, self.policies.memory) if policies and uses_memory else None
        self.written = 0

    def clone(self, policies: Policies | None = None) -> "Learner":
        """Return a copy with its own weights and memory, and perhaps other policies."""
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network)
        other.memory = None if self.memory is None else self.memory.copy()
        other.policies = policies or self.policies
        return other

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Return the pooled state of every text as an array, without a gradient."""
        with torch.no_grad():
            parts = [self._pool(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return torch.cat(parts).numpy()

    def forward(self, texts: Sequence[str], *, use_memory: bool = True) -> Pass:
        """Encode, read the memory, mix by the gate and classify.

        The retrieved values carry no gradient, as in the document; without a gate they are not mixed in.
        """
        pooled = self._pool(texts)
        if self.memory is None or not use_memory:
            return Pass(pooled, self.network.classifier(pooled), None, None)
        policies = self.policies
        count = 1 if policies.read == "top1" else policies.top_k
        hits = self.memory.read(pooled.detach().numpy(), count)
        if policies.gate == "none":
            return Pass(pooled, self.network.classifier(pooled), None, hits)
        retrieved = torch.from_numpy(self._retrieve(hits))
        gates = torch.sigmoid(self.network.gate(torch.cat([pooled, retrieved], dim=1)))
        fused = gates * retrieved + (1 - gates) * pooled
        return Pass(pooled, self.network.classifier(fused), gates, hits)

    def train(
        self, stories: Sequence[Story], config: TrainingConfig, random: np.random.Generator, *, use_memory: bool = True
    ) -> None:
        """Take `config.steps` steps through stories in shuffled passes, reading and writing memory on the way."""
        fused = {} if config.optimizer == "rmsprop" else {"fused": True}
        optimizer = _OPTIMIZERS[config.optimizer](self.network.parameters(), lr=config.learning_rate, **fused)
        order: list[int] = []
        size = min(config.batch_size, len(stories))
        for _ in range(config.steps):
            if len(order) < size:
                order += random.permutation(len(stories)).tolist()
            batch, order = [stories[i] for i in order[:size]], order[size:]
            result = self.forward([story.text for story in batch], use_memory=use_memory)
            losses = self._losses(result, batch)
            optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if use_memory and self.memory is not None:
                self._remember(batch, result, losses.detach().double().numpy())

    def loss_and_accuracy(self, stories: Sequence[Story], *, use_memory: bool = True) -> tuple[float, float]:
        """Return the mean loss in nats and the share of right answers; learns nothing."""
        with torch.no_grad():
            result = self.forward([story.text for story in stories], use_memory=use_memory)
            right = result.logits.argmax(1) == self._targets(stories)
            return float(self._losses(result, stories).mean()), float(right.double().mean())

    def answer(self, texts: Sequence[str], how: str) -> Answers:
        """Answer by the `classifier`, or by the label of the `nearest` key."""
        passes = []
        with torch.no_grad():
            for i in range(0, len(texts), _BATCH):
                passes.append(self.forward(texts[i : i + _BATCH]))
        chances, classes = torch.cat([p.logits for p in passes]).softmax(1).max(1)
        words = [self.vocabulary.labels[c] for c in classes.tolist()]
        if self.memory is None or not len(self.memory):
            return Answers(words, chances.double().numpy())
        ids = np.concatenate([p.hits.ids[:, 0] for p in passes if p.hits is not None])
        scores = np.concatenate([p.hits.similarities[:, 0] for p in passes if p.hits is not None]).astype(np.float64)
        nearest = [remembered.word for remembered in self.memory.values(ids.tolist())]
        if how == "nearest":
            return Answers(nearest, scores, nearest, scores)
        gates = [p.gates for p in passes if p.gates is not None]
        mixed = torch.cat(gates)[:, 0].double().numpy() if gates else None
        return Answers(words, chances.double().numpy(), nearest, scores, mixed)

    def _pool(self, texts: Sequence[str]) -> Tensor:
        pooled: Tensor = self.network.encoder(*self.vocabulary.encode(texts))
        return pooled

    def _targets(self, stories: Sequence[Story]) -> Tensor:
        return torch.tensor([self.vocabulary.classes[story.word] for story in stories])

    def _losses(self, result: Pass, stories: Sequence[Story]) -> Tensor:
        return F.cross_entropy(result.logits, self._targets(stories), reduction="none")

    def _retrieve(self, hits: Hits) -> Float[np.ndarray, "B D"]:
        assert self.memory is not None
        policies = self.policies
        weights = read_weights(policies.read, hits.scores.astype(np.float64), policies.top_k, policies.temperature)
        out = np.zeros((len(hits.ids), self.memory.key_size), dtype=np.float32)
        for row, (ids, shares) in enumerate(zip(hits.ids.tolist(), weights.tolist(), strict=True)):
            found = [(i, share) for i, share in zip(ids, shares, strict=True) if i >= 0 and share > 0]
            for remembered, (_, share) in zip(self.memory.values([i for i, _ in found]), found, strict=True):
                out[row] += share * remembered.vector
        return out

    def _remember(self, batch: Sequence[Story], result: Pass, losses: np.ndarray) -> None:
        """Note how the memories read have served, then write what the policy wants.

        The value is the mean word embedding of the definition as it is now; it and the key go stale as the encoder
        trains. Confidence at first is the probability that the model gave to the right word.
        """
        assert self.memory is not None
        assert result.hits is not None
        for story, identity in zip(batch, result.hits.ids[:, 0].tolist(), strict=True):
            if identity >= 0:
                self.memory.record(identity, self.memory.values([identity])[0].word == story.word)
        keys = result.pooled.detach().numpy()
        chosen = writes(self.policies.write, losses, self.policies.surprise_threshold)
        for row in np.flatnonzero(chosen).tolist():
            story = batch[row]
            remembered = Remembered(story.word, self._describe(story.definition), story)
            confidence = float(np.exp(-losses[row]))
            self.memory.write(keys[row], remembered, text=story.text, confidence=confidence)
            self.written += 1

    def _describe(self, definition: str) -> Float[np.ndarray, " D"]:
        ids, _ = self.vocabulary.encode([definition])
        with torch.no_grad():
            mean: Tensor = self.network.encoder.words(ids[0]).mean(0)
        return mean.numpy()

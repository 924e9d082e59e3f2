"""Vectors of glosses and of sentences with a blank, such that a word's own are close: a dual encoder of word bags.

Content words start from counted vectors (PPMI and SVD); what stands around the blank is hashed. Both are trained by
telling the right gloss from the others of a batch (in-batch softmax, as Karpukhin et al. 2020, arXiv 2004.04906, and
Gillick et al. 2019), on senses that are never tested. Training needs torch; encoding does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from rhapsode.config import Config
from rhapsode.evaluation.oneshot.features import content_ids, context_features, gloss_features
from rhapsode.evaluation.oneshot.lexical import words_of
from rhapsode.evaluation.oneshot.wordnet import PARTS, Sense, find_forms, inflections, replace_spans
from rhapsode.evaluation.oneshot.wordnet_task import BLANK, HonestTask
from rhapsode.memory.encoders.config import StaticEncoderConfig
from rhapsode.memory.encoders.word_vectors import count_words, train_word_vectors


class MatcherConfig(Config):
    """Sizes and training of the matcher."""

    width: int = Field(default=304, ge=8)
    """Width of the content vectors; a multiple of 8."""
    context_width: int = Field(default=64, ge=1)
    """Width of the vectors of what stands around a blank."""
    max_words: int = Field(default=60_000, ge=1)
    """Words with a vector: the most frequent ones, seen at least twice."""
    num_contexts: int = Field(default=4_096, ge=1)
    """Most frequent words that serve as contexts of the counted vectors."""
    members: int = Field(default=3, ge=1)
    """Matchers trained from different seeds; their scores are averaged."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the sentences of the corpus."""
    batch_size: int = Field(default=1_024, ge=2)
    """Sentences in a step; each is told from the glosses of all others."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Of content vectors, weights and projection; falls linearly to nothing."""
    context_rate: float = Field(default=5e-3, gt=0)
    """The same of the hashed features."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of words and features left out in training."""
    seed: int = 0
    """Of everything that is drawn."""


@dataclass(frozen=True)
class WordVectors:
    """Counted vectors (V, D) float32 of unit length, and ln(texts / texts with the word) (V,), of a corpus."""

    ids: dict[str, int]
    vectors: Float[np.ndarray, "V D"]
    idf: Float[np.ndarray, " V"]

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Return the idf-weighted mean of the word vectors of every text, of unit length; zeros for unknown words."""
        rows = [content_ids([text], self.ids) for text in texts]
        return unit(np.stack([self.idf[row] @ self.vectors[row] for row in rows]))


@dataclass(frozen=True)
class Bags:
    """A text as content ids and hashed features."""

    content: list[int]
    features: list[int]


@dataclass(frozen=True)
class Pair:
    """A sense to train on: its gloss, each of its sentences, and its part of speech."""

    gloss: Bags
    usages: list[Bags]
    part: int


@dataclass(frozen=True)
class Matcher:
    """A trained dual encoder as arrays; the dot product of an entry and a query is their score in nats.

    Content vectors (V, D), their weights (V,), the projection of queries (D, D) times the scale, and the vectors of
    features (F, E) of entries and of queries.
    """

    ids: dict[str, int]
    vectors: Float[np.ndarray, "V D"]
    weights: Float[np.ndarray, " V"]
    projection: Float[np.ndarray, "D D"]
    entry_features: Float[np.ndarray, "F E"]
    query_features: Float[np.ndarray, "F E"]

    @property
    def width(self) -> int:
        """Width of a key: D + E."""
        return int(self.vectors.shape[1] + self.entry_features.shape[1])

    def encode_entry(self, gloss: str, usages: Sequence[str]) -> Float[np.ndarray, " K"]:
        """Return the key of a gloss with sentences, blanks marked. O(words (D + E))."""
        bags = entry_bags(gloss, usages, self.ids)
        return np.concatenate([self._content(bags), self.entry_features[bags.features].sum(axis=0)])

    def encode_query(self, text: str) -> Float[np.ndarray, " K"]:
        """Return the vector of a sentence with a blank. O(D^2 + words (D + E))."""
        bags = usage_bags(text, self.ids)
        content = self._content(bags) @ self.projection
        return np.concatenate([content, self.query_features[bags.features].sum(axis=0)])

    def _content(self, bags: Bags) -> Float[np.ndarray, " D"]:
        total = self.weights[bags.content] @ self.vectors[bags.content]
        return np.asarray(unit(total[None])[0])


@dataclass(frozen=True)
class Ensemble:
    """Matchers trained from different seeds, as one: the dot product is the mean of theirs."""

    members: Sequence[Matcher]

    @property
    def width(self) -> int:
        """Width of a key: that of all members together."""
        return sum(member.width for member in self.members)

    def encode_entry(self, gloss: str, usages: Sequence[str]) -> Float[np.ndarray, " K"]:
        """Return the keys of all members, one after another, over their number."""
        keys = [member.encode_entry(gloss, usages) for member in self.members]
        return np.asarray(np.concatenate(keys) / len(self.members))

    def encode_query(self, text: str) -> Float[np.ndarray, " K"]:
        """Return the vectors of all members, one after another."""
        return np.concatenate([member.encode_query(text) for member in self.members])


def entry_bags(gloss: str, usages: Sequence[str], ids: dict[str, int]) -> Bags:
    """Return what the matcher sees of a gloss with sentences."""
    features = gloss_features(gloss) + [feature for usage in usages for feature in context_features(usage)]
    return Bags(content_ids([gloss, *usages], ids), features)


def usage_bags(text: str, ids: dict[str, int]) -> Bags:
    """Return what the matcher sees of a sentence."""
    return Bags(content_ids([text], ids), context_features(text))


def count_vectors(corpus: Sequence[Sense], config: MatcherConfig) -> WordVectors:
    """Count word vectors in the corpus: one text a sense, with its lemmas, gloss and sentences."""
    texts = [" ".join([*sense.lemmas, sense.gloss, *sense.usages]) for sense in corpus]
    # its words are ours only where both split alike, so they are split here.
    split = [words_of(text) for text in texts]
    static = StaticEncoderConfig(
        width=config.width,
        max_words=config.max_words,
        min_count=2,
        num_contexts=config.num_contexts,
        max_chars=1_000_000_000,
        seed=config.seed,
    )
    counted = count_words([" ".join(words) for words in split], static)
    ids = {word: i for i, word in enumerate(counted.words)}
    found = np.zeros(len(ids))
    for words in split:
        for word in set(words) & ids.keys():
            found[ids[word]] += 1
    return WordVectors(ids, train_word_vectors(counted, static), np.log(len(texts) / np.maximum(found, 1)))


def make_pairs(task: HonestTask, ids: dict[str, int]) -> list[Pair]:
    """Return what may be trained on: senses of the corpus with sentences, every form of their lemmas blanked out."""
    pairs = []
    for sense in task.corpus:
        if not sense.usages:
            continue
        forms = set().union(*(inflections(lemma, task.irregular) for lemma in sense.lemmas))
        spans = [(text, find_forms(text, forms)) for text in sense.usages]
        usages = [usage_bags(replace_spans(text, found, BLANK), ids) for text, found in spans if found]
        gloss = entry_bags(replace_spans(sense.gloss, find_forms(sense.gloss, forms), BLANK), (), ids)
        usages = [usage for usage in usages if usage.content]
        if usages and gloss.content:
            pairs.append(Pair(gloss, usages, PARTS.index(sense.part)))
    return pairs


def unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Scale every row to unit length; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled

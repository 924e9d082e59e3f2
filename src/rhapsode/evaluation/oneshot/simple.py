"""Methods that train nothing: the controls, the document's random embeddings, and our lexical memory. Torch-free."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rhapsode.evaluation.oneshot.contracts import Answers, Counters, Story
from rhapsode.evaluation.oneshot.lexical import LexicalIndex, char_ngrams, words_of
from rhapsode.memory.key_value import KeyValueMemory
from rhapsode.memory.policies import Policies

_RANDOM_WIDTH = 64


class Majority:
    """Always the most frequent word of the stories."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._counts: Counter[str] = Counter()

    def teach(self, stories: Sequence[Story]) -> None:
        """Count."""
        self._counts.update(story.word for story in stories)

    def maintain(self) -> None:
        """Nothing is consolidated or forgotten."""

    def answer(self, texts: Sequence[str]) -> Answers:
        """Say the most frequent word."""
        return Answers([self._counts.most_common(1)[0][0]] * len(texts), np.zeros(len(texts)))


class BagOfWords:
    """The stored story that shares most different words with the text."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._stories: list[tuple[frozenset[str], str]] = []

    def teach(self, stories: Sequence[Story]) -> None:
        """Store every story."""
        self._stories += [(frozenset(words_of(story.text)), story.word) for story in stories]
        self.counters.written += len(stories)

    def maintain(self) -> None:
        """Nothing is consolidated or forgotten."""

    def answer(self, texts: Sequence[str]) -> Answers:
        """Compare with every story."""
        found = []
        for text in texts:
            bag = frozenset(words_of(text))
            found.append(max(((len(bag & other), word) for other, word in self._stories), key=lambda pair: pair[0]))
        words = [word for _, word in found]
        shared = np.array([count for count, _ in found], dtype=np.float64)
        return Answers(words, shared, memory_words=words, similarity=shared)


class RandomNearest:
    """The document's baseline-3: random 64-d embeddings, mean pool, nearest stored sample, nothing trained."""

    def __init__(self, policies: Policies, seed: int) -> None:
        self.counters = Counters()
        self._random = np.random.default_rng(seed)
        self._vectors: dict[str, Float[np.ndarray, " K"]] = {}
        self.memory = KeyValueMemory(_RANDOM_WIDTH, policies.memory)

    def teach(self, stories: Sequence[Story]) -> None:
        """Store every story."""
        for story in stories:
            self.memory.write(self._embed(story.text), story.word, text=story.text)
        self.counters.written += len(stories)

    def maintain(self) -> None:
        """Nothing is consolidated or forgotten."""

    def answer(self, texts: Sequence[str]) -> Answers:
        """Take the label of the nearest key."""
        hits = self.memory.read(np.stack([self._embed(text) for text in texts]), 1)
        words = self.memory.values(hits.ids[:, 0].tolist())
        scores = hits.scores[:, 0].astype(np.float64)
        return Answers(words, scores, memory_words=words, similarity=hits.similarities[:, 0].astype(np.float64))

    def _embed(self, text: str) -> Float[np.ndarray, " K"]:
        return np.asarray(np.mean([self._vector(word) for word in words_of(text)], axis=0))

    def _vector(self, word: str) -> Float[np.ndarray, " K"]:
        if word not in self._vectors:
            self._vectors[word] = self._random.standard_normal(_RANDOM_WIDTH)
        return self._vectors[word]


class LexicalMemory:
    """Ours where no text is there to learn from: BM25 over words, and over character n-grams for inflections.

    Confidence is the share of the query's idf that the best memory holds, so that a rare word that no memory
    holds lowers it. Nothing is trained, and a write is an append.
    """

    def __init__(self, ngram_weight: float = 0.2) -> None:
        self.counters = Counters()
        self._ngram_weight = ngram_weight
        self._words = LexicalIndex()
        self._ngrams = LexicalIndex()
        self._labels: list[str] = []

    def teach(self, stories: Sequence[Story]) -> None:
        """Store every story."""
        for story in stories:
            words = words_of(story.text)
            self._words.add(words)
            self._ngrams.add(char_ngrams(words))
            self._labels.append(story.word)
        self.counters.written += len(stories)

    def maintain(self) -> None:
        """Nothing is consolidated or forgotten."""

    def answer(self, texts: Sequence[str]) -> Answers:
        """Take the label of the best story."""
        labels, confidence, similarity = [], [], []
        for text in texts:
            words = words_of(text)
            by_word, by_ngram = self._words.scores(words), self._ngrams.scores(char_ngrams(words))
            scores = by_word + self._ngram_weight * by_ngram
            best = int(scores.argmax())
            labels.append(self._labels[best])
            similarity.append(float(scores[best]))
            confidence.append(self._words.coverage(words, best))
        return Answers(labels, np.array(confidence), memory_words=labels, similarity=np.array(similarity))

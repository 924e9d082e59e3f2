"""The default encoder: a text is the weighted sum of its words' vectors. It needs no download and no torch.

    w = (1 - s) meaning(w) + s spelling(w)
    x = sum over words of a / (a + p(w)) w,    then x - (x . c) c, at unit length

Meaning is counted from the run's own text (`word_vectors`), spelling is hashed (`spelling`), so a name that was never
seen still has a vector of its own. Frequent words weigh little, and c, what all texts have in common, is taken
out: smooth inverse frequency, Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings".
The spelling half is ours.

Shape letters: N texts, V words with a meaning, M width.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from rhapsode.config import build_config
from rhapsode.memory.encoders.config import StaticEncoderConfig
from rhapsode.memory.encoders.files import damaged, load_arrays, read_header, save_arrays, write_header
from rhapsode.memory.encoders.spelling import spelling_vector
from rhapsode.memory.encoders.word_vectors import CountedText, count_words, train_word_vectors
from rhapsode.memory.encoders.words import split_words

_CACHED_WORDS = 50_000
_BLOCK_TEXTS = 2_048
_COMMON_SAMPLE, _COMMON_WORDS = 4_096, 24


class StaticEncoder:
    """Texts to unit vectors by weighted word vectors; see the module.

    A vector is a pure function of the text and what was trained: it does not depend on the other texts of a call, on
    earlier calls, or on the number of threads. Safe to use from several threads.

    Attributes:
        width: M.
        fingerprint: SHA-256 in hexadecimal over all that was trained; equal for encoders that encode alike.
    """

    kind = "static"

    def __init__(
        self,
        config: StaticEncoderConfig,
        words: Sequence[str],
        counts: Int64[np.ndarray, " V"],
        total: int,
        meanings: Float32[np.ndarray, "V M"],
        common: Float32[np.ndarray, " M"],
    ) -> None:
        """Store what was trained.

        Args:
            words: V words, each once.
            counts: how often each was seen among `total` words.
            meanings: unit vectors, or zeros for a word without one. Kept in float16, as it is saved.
            common: unit vector to take out of every text, or zeros.
        """
        self.config = config
        self.width = config.width
        self._words = list(words)
        self._counts = counts.astype(np.int64)
        self._total = int(total)
        self._meanings = meanings.astype(np.float16)
        self._common = common.astype(np.float32)
        self._numbers = {word: number for number, word in enumerate(self._words)}
        self._cache: dict[str, np.ndarray] = {}
        self.fingerprint = self._fingerprint()

    @classmethod
    def train(cls, texts: Iterable[str], config: StaticEncoderConfig | None = None) -> "StaticEncoder":
        """Count the words of `texts` and learn their vectors; about 1 s for each MB.

        Text that is too short to count anything gives an encoder of spelling alone, which is still of use.

        Args:
            texts: documents or pieces of them, read up to `config.max_chars` characters.
            config: default: `StaticEncoderConfig()`.
        """
        config = config or StaticEncoderConfig()
        counted = count_words(texts, config)
        meanings = train_word_vectors(counted, config)
        nothing = np.zeros(config.width, dtype=np.float32)
        encoder = cls(config, counted.words, counted.counts, counted.total, meanings, nothing)
        common = encoder._find_common(counted)
        return cls(config, counted.words, counted.counts, counted.total, meanings, common)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        """Return a unit vector for each text; zeros for a text without any word.

        Cost O(words M), and O(letters M) the first time a word is met.
        """
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        for start in range(0, len(texts), _BLOCK_TEXTS):
            block = texts[start : start + _BLOCK_TEXTS]
            rows[start : start + len(block)] = self._encode_words([split_words(text) for text in block])
        return rows

    def probability(self, word: str) -> float:
        """Return how often a word, as `split_words` gives it, occurs in the training text; 0 for one without vector."""
        number = self._numbers.get(word)
        return 0.0 if number is None else float(self._counts[number]) / max(1, self._total)

    def save(self, folder: str | Path) -> None:
        """Write the encoder. Raises StateError if `folder` cannot be written."""
        folder = Path(folder)
        save_arrays(folder, {"meanings": self._meanings, "counts": self._counts, "common": self._common})
        settings = {"config": self.config.model_dump(mode="json"), "total": self._total, "words": self._words}
        write_header(folder, self, settings)

    @classmethod
    def load(cls, folder: str | Path) -> "StaticEncoder":
        """Read what `save` wrote.

        Raises:
            StateError: if a file is missing, damaged, or written by a newer version.
        """
        folder = Path(folder)
        header = read_header(folder, cls.kind)
        arrays = load_arrays(folder)
        try:
            config = build_config(StaticEncoderConfig, header["config"], "encoder")
            words, total = [str(word) for word in header["words"]], int(header["total"])
            meanings, counts, common = arrays["meanings"], arrays["counts"], arrays["common"]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder, str(error)) from None
        if meanings.shape != (len(words), config.width) or counts.shape != (len(words),):
            raise damaged(folder, f"{len(words)} words and vectors of shape {meanings.shape}")
        encoder = cls(config, words, counts, total, meanings.astype(np.float32), common)
        if encoder.fingerprint != header.get("fingerprint"):
            raise damaged(folder, "it does not match its own fingerprint")
        return encoder

    def _encode_words(self, split: Sequence[Sequence[str]]) -> Float32[np.ndarray, "N M"]:
        rows = np.zeros((len(split), self.width), dtype=np.float32)
        lengths = np.array([len(words) for words in split])
        filled = np.flatnonzero(lengths)
        if len(filled) == 0:
            return rows
        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(word, len(numbers)) for words in split for word in words]
        table = np.stack([self._word_vector(word) for word in numbers])
        starts = np.concatenate([[0], np.cumsum(lengths[filled])[:-1]])
        sums = np.add.reduceat(table[ids], starts, axis=0)
        # sums along a row, not matrix products: those round differently for different numbers of rows.
        sums -= (sums * self._common).sum(axis=1, keepdims=True) * self._common
        norms = np.sqrt((sums * sums).sum(axis=1, keepdims=True))
        rows[filled] = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 1e-6)
        return rows

    def _word_vector(self, word: str) -> Float32[np.ndarray, " M"]:
        vector = self._cache.get(word)
        if vector is None:
            vector = self._make_word_vector(word)
            if len(self._cache) >= _CACHED_WORDS:
                self._cache = {}
            self._cache[word] = vector
        return vector

    def _make_word_vector(self, word: str) -> Float32[np.ndarray, " M"]:
        vector = spelling_vector(word, self.width)
        number = self._numbers.get(word)
        if number is not None:
            vector = self.config.spelling * vector + (1 - self.config.spelling) * self._meanings[number]
        rare = self.config.rare_weight
        return (vector * (rare / (rare + self.probability(word)))).astype(np.float32)

    def _find_common(self, counted: CountedText) -> Float32[np.ndarray, " M"]:
        """Return the first principal direction of the vectors of stretches of the training text."""
        ids = counted.ids[counted.ids >= 0]
        starts = np.arange(0, len(ids) - _COMMON_WORDS + 1, _COMMON_WORDS)
        starts = starts[:: max(1, len(starts) // _COMMON_SAMPLE)]
        if len(starts) < 2:
            return np.zeros(self.width, dtype=np.float32)
        stretches = [[self._words[i] for i in ids[start : start + _COMMON_WORDS]] for start in starts]
        rows = self._encode_words(stretches).astype(np.float64)
        values, directions = np.linalg.eigh(rows.T @ rows)
        return directions[:, int(np.argmax(values))].astype(np.float32)

    def _fingerprint(self) -> str:
        about: dict[str, Any] = {"kind": self.kind, "config": self.config.model_dump(mode="json")}
        about |= {"words": self._words, "total": self._total}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for array in (self._meanings, self._counts, self._common):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

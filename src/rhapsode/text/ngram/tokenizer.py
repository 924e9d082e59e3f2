"""The n-gram tokenizer: learnt from a bounded sample, applied with the fewest tokens."""

import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt

from rhapsode.errors import UserError
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.cores import num_cores
from rhapsode.text.ngram.automaton import Automaton
from rhapsode.text.ngram.learning import learn_ngrams
from rhapsode.text.pieces import cut_pieces
from rhapsode.text.readers import check_unicode
from rhapsode.text.tokenizer import FIRST_LEARNT, Tokenizer

MAX_SAMPLE_BYTES = 32_000_000
# small enough that a reservoir of them is a fair sample of a text of any order.
_SAMPLE_CHARS = 1 << 15
ENCODINGS = ("shortest", "greedy")


class NgramTokenizer(Tokenizer):
    """Byte n-grams of 2 to 16 bytes that may cross words and lines.

    `shortest` writes text with the fewest tokens; where several ways are equally short, the one whose last token is
    longest, from the end backwards. `greedy` takes the longest token at each place from the left. Text longer than
    262,144 characters is cut as `cut_pieces` says, and no token crosses a cut.
    """

    kind = "ngram"
    default_cap = 4096

    def __init__(self, learnt: Sequence[bytes] = (), encoding: str = "shortest") -> None:
        """Store the learnt tokens in the order of their ids, and compile them."""
        if encoding not in ENCODINGS:
            raise ValueError(f"an encoding of {', '.join(ENCODINGS)} was expected")
        super().__init__(learnt)
        self.learnt = tuple(learnt)
        self.encoding = encoding
        self._automaton = Automaton(self.learnt)

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "NgramTokenizer":
        """Learn n-grams from `texts`, or from a fair sample of 32 MB of them.

        Cost: 4 to 10 s at 4,096 ids for text of any length, plus reading it; about 200 MB.

        Raises:
            UserError: if a text holds a lone surrogate.
        """
        cap = cls.default_cap if config.max_vocab_size is None else config.max_vocab_size
        return cls(learn_ngrams(sample_bytes(texts), cap - FIRST_LEARNT), config.encoding or "shortest")

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "NgramTokenizer":
        """Build from tokens and encoding."""
        return cls([token.encode("latin-1") for token in payload["learnt"]], payload["encoding"])

    def payload(self) -> dict[str, Any]:
        """Return the encoding and the learnt tokens, with a character U+0000 to U+00FF for each byte."""
        return {"encoding": self.encoding, "learnt": [token.decode("latin-1") for token in self.learnt]}

    def grow(self, texts: Iterable[str], cap: int) -> "NgramTokenizer":
        """Return a tokenizer with more n-grams, learnt from `texts`, up to `cap` ids in all.

        Every id of this tokenizer stands for the same bytes in the new one. Text may be encoded otherwise.

        Raises:
            UserError: if the cap is below what there is, or a text holds a lone surrogate.
        """
        if cap < self.vocab_size:
            raise UserError(
                f"cap must be at least the size that there is; got {cap} and {self.vocab_size} ids. "
                f"Give {self.vocab_size} or more."
            )
        more = learn_ngrams(sample_bytes(texts), cap - self.vocab_size, fixed=self.learnt)
        return NgramTokenizer([*self.learnt, *more], self.encoding)

    def encode(self, text: str | bytes) -> UInt[np.ndarray, " N"]:
        """Return the ids of `text`, see `Tokenizer`; bytes that are not UTF-8 are written as all others are."""
        if isinstance(text, str):
            return super().encode(text)
        return self._encode_text(text.decode("utf-8", "surrogateescape"))

    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        # the pieces are the same that `prepare` cuts, so that ids do not depend on how the text came.
        pieces = list(cut_pieces((text,)))
        if not pieces:
            return np.empty(0, dtype=self.dtype)
        if len(pieces) == 1:
            return self._encode_piece(pieces[0])
        with ThreadPoolExecutor(min(num_cores(), len(pieces))) as pool:
            return np.concatenate(list(pool.map(self._encode_piece, pieces)))

    def _encode_piece(self, text: str) -> UInt[np.ndarray, " N"]:
        data = np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)
        ids = self._automaton.shortest(data) if self.encoding == "shortest" else self._automaton.greedy(data)
        return ids.astype(self.dtype)


def sample_bytes(texts: Iterable[str], max_bytes: int = MAX_SAMPLE_BYTES) -> list[bytes]:
    """Return `texts` as UTF-8 in stretches, all of them or a fair sample of about `max_bytes`, shuffled.

    Every stretch has the same chance (reservoir sampling, Vitter 1985, algorithm R, from a fixed seed).

    Raises:
        UserError: if a text holds a lone surrogate.
    """
    kept: list[bytes] = []
    rng = random.Random(0)
    held = seen = 0
    full = False
    for text in texts:
        for piece in cut_pieces((text,), _SAMPLE_CHARS):
            data = check_unicode(piece, "text")
            seen += 1
            if not full:
                kept.append(data)
                held += len(data)
                full = held >= max_bytes
            elif (place := rng.randrange(seen)) < len(kept):
                kept[place] = data
    rng.shuffle(kept)
    return kept

"""One id a character, with bytes for the rare ones."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from rhapsode.text.config import TokenizerConfig
from rhapsode.text.readers import check_unicode
from rhapsode.text.tokenizer import FIRST_BYTE, FIRST_LEARNT, Tokenizer

_NUM_CODE_POINTS = sys.maxunicode + 1


class CharsTokenizer(Tokenizer):
    """The most frequent characters; any other character becomes the ids of its UTF-8 bytes.

    The 256 byte ids double as the ASCII characters, so that plain English costs 259 ids in all.

    >>> tokenizer = CharsTokenizer("é")
    >>> tokenizer.vocab_size, tokenizer.encode("Aéè").tolist()
    (260, [68, 259, 198, 171])
    """

    kind = "chars"

    def __init__(self, chars: str = "") -> None:
        """Store the characters beyond ASCII, each once, in the order of their ids."""
        if len(set(chars)) != len(chars) or any(ord(char) < 128 for char in chars):
            raise ValueError("characters beyond ASCII, each once, were expected")
        super().__init__([char.encode() for char in chars])
        self.chars = chars
        # code point -> id, or -1 for what falls back to bytes. 4.4 MB.
        self._ids = np.full(_NUM_CODE_POINTS, -1, dtype=np.int32)
        self._ids[:128] = np.arange(128) + FIRST_BYTE
        self._ids[_code_points(chars)] = np.arange(len(chars)) + FIRST_LEARNT

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "CharsTokenizer":
        """Count the characters beyond ASCII in all `texts` and keep the most frequent that the cap leaves room for.

        Equal counts are ordered by code point. Raises UserError if a text holds a lone surrogate.
        """
        counts = np.zeros(_NUM_CODE_POINTS, dtype=np.int64)
        for text in texts:
            if not text.isascii():
                check_unicode(text, "text")
                found, times = np.unique(_code_points(text), return_counts=True)
                counts[found] += times
        counts[:128] = 0
        seen = np.flatnonzero(counts)
        by_count = seen[np.argsort(-counts[seen], kind="stable")]
        room = None if config.max_vocab_size is None else config.max_vocab_size - FIRST_LEARNT
        return cls("".join(map(chr, by_count[:room].tolist())))

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "CharsTokenizer":
        """Build from the characters."""
        return cls(payload["chars"])

    def payload(self) -> dict[str, Any]:
        """Return the characters beyond ASCII in the order of their ids."""
        return {"chars": self.chars}

    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        if text.isascii():
            return self._byte_ids(text.encode())
        codes = _code_points(text)
        ids: np.ndarray = self._ids[codes]
        missing = np.flatnonzero(ids < 0)
        if not missing.size:
            return ids.astype(self.dtype)
        # a character of n bytes takes n places; every other one place.
        rare = codes[missing]
        widths = np.ones(len(codes), dtype=np.int64)
        widths[missing] = 2 + (rare >= 0x800) + (rare >= 0x10000)
        ends = np.cumsum(widths)
        encoded = np.empty(int(ends[-1]), dtype=np.int64)
        encoded[ends - widths] = ids
        rare_bytes = np.frombuffer("".join(map(chr, rare.tolist())).encode(), dtype=np.uint8)
        encoded[_ranges(ends[missing] - widths[missing], widths[missing])] = rare_bytes.astype(np.int64) + FIRST_BYTE
        return encoded.astype(self.dtype)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)


def _ranges(starts: Int64[np.ndarray, " K"], widths: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " N"]:
    """Return start, start + 1, ... start + width - 1 for each start, joined."""
    ends = np.cumsum(widths)
    ranges: np.ndarray = np.arange(int(ends[-1])) + np.repeat(starts - (ends - widths), widths)
    return ranges

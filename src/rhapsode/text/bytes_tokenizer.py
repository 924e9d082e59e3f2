"""One id a byte."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt

from rhapsode.text.config import TokenizerConfig
from rhapsode.text.tokenizer import FIRST_LEARNT, Tokenizer


class BytesTokenizer(Tokenizer):
    """The 256 bytes and three specials: nothing to learn, 259 ids.

    >>> BytesTokenizer().encode("Aé").tolist()
    [68, 198, 172]
    """

    kind = "bytes"
    default_cap = FIRST_LEARNT

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "BytesTokenizer":
        """Return the tokenizer; `texts` are not read."""
        return cls()

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "BytesTokenizer":
        """Build from an empty payload."""
        return cls()

    def payload(self) -> dict[str, Any]:
        """Return nothing: nothing was learnt."""
        return {}

    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        return self._byte_ids(text.encode())

"""Byte-level byte-pair encoding: learnt with Hugging Face `tokenizers`, applied with `tiktoken`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt

from rhapsode.text.config import TokenizerConfig
from rhapsode.text.pieces import cut_pieces
from rhapsode.text.readers import check_unicode
from rhapsode.text.tokenizer import FIRST_LEARNT, Tokenizer

DEFAULT_VOCAB_SIZE = 4096
MAX_TRAINING_BYTES = 50_000_000

# text is first cut into words, numbers, punctuation and white space; merges never cross these cuts. this is GPT-2's
# pattern (Radford et al., 2019) with GPT-4's changes that help small vocabularies: contractions in any case, and digits
# in groups of three at most, so that numbers do not eat up the vocabulary. departures: every run is at most 16
# characters, because merging is quadratic in the length of a run and a file of one letter would take hours; and no
# token reaches from text into white space, so that long text can be cut there. it has no possessive quantifiers, so
# that both libraries read it alike, and the runs are short enough for the regex engine's table to stay in the cache
# (64 costs half the speed).
PATTERN = r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}{1,16}| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]{1,16}|\s{1,16}(?!\S)|\s{1,16}"


class BpeTokenizer(Tokenizer):
    """Byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909) over bytes.

    Of two neighbouring tokens those are merged first whose union was learnt first. Encoding is tiktoken's: about ten
    times as fast as the library that learnt the merges, with the same ids.
    """

    kind = "bpe"
    default_cap = DEFAULT_VOCAB_SIZE

    def __init__(self, merged: Sequence[bytes] = (), pattern: str = PATTERN) -> None:
        """Store the learnt tokens in the order in which they were learnt."""
        import tiktoken

        if len(set(merged)) != len(merged) or any(len(token) < 2 for token in merged):
            raise ValueError("tokens of at least two bytes, each once, were expected")
        super().__init__(merged)
        self.merged = tuple(merged)
        self.pattern = pattern
        self._core = tiktoken.Encoding(
            "rhapsode",
            pat_str=pattern,
            mergeable_ranks={token: i for i, token in enumerate(self._tokens) if token},
            # the names are never matched: no special is allowed in text.
            special_tokens={"<|pad|>": self.pad_id, "<|bos|>": self.bos_id, "<|eos|>": self.eos_id},
        )

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "BpeTokenizer":
        """Learn merges from the first 50 MB of `texts`; pairs that occur once are not learnt.

        Cost: 10 to 20 s and about 1 GB for 50 MB on two cores.

        Raises:
            UserError: if a text holds a lone surrogate.
        """
        from rhapsode.text.bpe_plain import learn_merges

        cap = DEFAULT_VOCAB_SIZE if config.max_vocab_size is None else config.max_vocab_size
        return cls(learn_merges(_first_bytes(texts), cap - FIRST_LEARNT, PATTERN))

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "BpeTokenizer":
        """Build from pattern and tokens."""
        return cls([token.encode("latin-1") for token in payload["merged"]], payload["pattern"])

    def payload(self) -> dict[str, Any]:
        """Return the pattern and the learnt tokens, with a character U+0000 to U+00FF for each byte."""
        return {"pattern": self.pattern, "merged": [token.decode("latin-1") for token in self.merged]}

    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        # pieces keep memory flat, and are the same that `prepare` cuts.
        ids = [self._core.encode_to_numpy(piece, disallowed_special=()) for piece in cut_pieces((text,))]
        return np.concatenate(ids).astype(self.dtype) if ids else np.empty(0, dtype=self.dtype)


def _first_bytes(texts: Iterable[str]) -> Iterator[str]:
    """Yield pieces until 50 MB are reached."""
    room = MAX_TRAINING_BYTES
    for text in texts:
        for piece in cut_pieces((text,)):
            room -= len(check_unicode(piece, "text"))
            if room < 0:
                return
            yield piece

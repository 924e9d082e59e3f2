"""What every tokenizer does, and how one is trained, saved and loaded.

Ids are laid out alike in all that are trained here: pad, bos, eos, then the 256 bytes, then whatever was learnt.
Because every byte has an id, every text and every byte string can be encoded and comes back unchanged.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import read_json, write_json
from rhapsode.text.config import FOREIGN_TOKENIZERS, TOKENIZERS, TokenizerConfig
from rhapsode.text.readers import check_unicode

FORMAT_VERSION = 1
NUM_SPECIALS = 3
FIRST_BYTE = NUM_SPECIALS
FIRST_LEARNT = FIRST_BYTE + 256
# bytes that are not UTF-8, as the "surrogateescape" error handler writes them.
_INVALID_BYTES = re.compile("[\udc80-\udcff]+")


class Tokenizer(ABC):
    """Text or bytes to ids and back, without loss.

    A subclass gives its `kind`, encodes valid text, and turns itself into JSON and back; everything else follows from
    the bytes that each id stands for.

    Attributes:
        pad_id, bos_id, eos_id: 0, 1 and 2; they decode to nothing and no text encodes to them.
        num_bytes: int64 (vocab_size,), bytes each id stands for; 0 for the three specials.
        dtype: uint16 if the vocabulary fits, otherwise uint32.
        default_cap: most ids if no cap is given; None for as many as the text has.
    """

    kind: ClassVar[str]
    default_cap: ClassVar[int | None] = None
    pad_id = 0
    bos_id = 1
    eos_id = 2

    def __init__(self, learnt: Sequence[bytes] = ()) -> None:
        """Store the bytes of the ids from 259 on."""
        self._tokens: list[bytes] = [b""] * NUM_SPECIALS + [bytes([byte]) for byte in range(256)] + list(learnt)
        self.num_bytes: Int64[np.ndarray, " C"] = np.array([len(token) for token in self._tokens], dtype=np.int64)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "Tokenizer":
        """Learn from `texts`, with at most `config.max_vocab_size` ids."""

    @classmethod
    @abstractmethod
    def from_payload(cls, payload: dict[str, Any]) -> "Tokenizer":
        """Build from what `payload` returned. May raise KeyError, TypeError or ValueError on anything else."""

    @abstractmethod
    def payload(self) -> dict[str, Any]:
        """Return all that was learnt, ready for JSON."""

    @abstractmethod
    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        """Encode text that holds no lone surrogate, as `dtype`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included. Never above the cap it was trained with."""
        return len(self._tokens)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over kind and payload: equal for tokenizers that encode alike."""
        canonical = json.dumps({"kind": self.kind, "payload": self.payload()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str | bytes) -> UInt[np.ndarray, " N"]:
        """Return the ids of `text`, without specials.

        Bytes that are not valid UTF-8 become byte ids; the valid stretches between them are encoded as text.

        Returns:
            uint16 (or uint32) ids of shape (N,).

        Raises:
            UserError: if a string holds a lone surrogate, naming its offset.
        """
        if isinstance(text, str):
            check_unicode(text, "text")
            return self._encode_text(text)
        pieces = []
        decoded = text.decode("utf-8", "surrogateescape")
        position = 0
        for match in _INVALID_BYTES.finditer(decoded):
            pieces.append(self._encode_text(decoded[position : match.start()]))
            pieces.append(self._byte_ids(match.group().encode("utf-8", "surrogateescape")))
            position = match.end()
        pieces.append(self._encode_text(decoded[position:]))
        return np.concatenate(pieces)

    def _byte_ids(self, data: bytes) -> UInt[np.ndarray, " N"]:
        ids = np.frombuffer(data, dtype=np.uint8).astype(self.dtype)
        ids += FIRST_BYTE
        return ids

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the bytes that `ids` stand for; the exact inverse of `encode`. Specials stand for nothing.

        Raises:
            UserError: if an id is not in the vocabulary.
        """
        values = np.asarray(ids).reshape(-1)
        if values.size == 0:
            return b""
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.vocab_size:
            got = low if low < 0 else high
            raise UserError(
                f"token ids must lie between 0 and {self.vocab_size - 1}; got {got}. Use the tokenizer they came from."
            )
        tokens = self._tokens
        return b"".join([tokens[i] for i in values.tolist()])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text that `ids` stand for, with U+FFFD in place of bytes that are not UTF-8.

        Raises:
            UserError: if an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one id: empty for a special.

        Raises:
            UserError: if the id is not in the vocabulary.
        """
        return self.decode_bytes([token_id])

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON with a checksum. Raises StateError if `path` cannot be written."""
        value = {"format_version": FORMAT_VERSION, "kind": self.kind, "vocab_size": self.vocab_size}
        write_json(Path(path), {**value, "fingerprint": self.fingerprint, "payload": self.payload()})


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, say: Callable[[str], None] = lambda sentence: None
) -> Tokenizer:
    """Train the tokenizer that `config` names.

    Args:
        texts: read once, and only as far as the tokenizer needs (bpe: 50 MB).
        config: kind and cap.
        say: is told the base ids, the cap and what is left to learn, then what was learnt.

    Raises:
        UserError: if the kind is unknown, the cap is too small, or a text holds a lone surrogate.
    """
    tokenizer_class: type[Tokenizer] = TOKENIZERS.load(config.kind)
    if tokenizer_class.default_cap == FIRST_LEARNT:
        # nothing to learn, and nothing to say.
        return tokenizer_class.train(texts, config)
    cap = tokenizer_class.default_cap if config.max_vocab_size is None else config.max_vocab_size
    room = "no cap" if cap is None else f"cap {cap}, remaining capacity {cap - FIRST_LEARNT}"
    say(f"{config.kind} tokenizer: base ids {FIRST_LEARNT}, {room}")
    tokenizer = tokenizer_class.train(texts, config)
    if tokenizer.vocab_size == cap:
        say(f"vocab_size capped at {cap}")
    say(f"learnt {tokenizer.vocab_size - FIRST_LEARNT} tokens, final vocab_size {tokenizer.vocab_size}")
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer that `Tokenizer.save` wrote.

    Raises:
        StateError: if the file is missing, damaged, or written by a newer version.
        UserError: if its kind is unknown here.
    """
    path = Path(path)
    value = read_json(path)
    kind, payload, version = value.get("kind"), value.get("payload"), value.get("format_version")
    if not isinstance(kind, str) or not isinstance(payload, dict):
        raise StateError(f"{path} must hold a tokenizer; got other JSON. Restore it or train again.")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StateError(
            f"{path} has format version {version!r}, and this rhapsode reads up to {FORMAT_VERSION}. "
            "Install a newer rhapsode."
        )
    known = FOREIGN_TOKENIZERS if kind in FOREIGN_TOKENIZERS.names() else TOKENIZERS
    tokenizer_class = known.load(known.check(kind, f"the tokenizer kind in {path}"))
    try:
        tokenizer: Tokenizer = tokenizer_class.from_payload(payload)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} must hold a tokenizer, but it is damaged ({error}). Restore it.") from None
    if tokenizer.fingerprint != value.get("fingerprint"):
        raise StateError(f"{path} must match its own fingerprint, but it was changed. Restore it or train again.")
    return tokenizer

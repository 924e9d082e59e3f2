"""The tokenizer of a local Hugging Face model, as one of ours: byte-level byte-pair encoding from tokenizer.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, UInt

from rhapsode.errors import StateError, UserError
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.tokenizer import Tokenizer

_BEGIN = ("<|endoftext|>", "<s>", "<|begin_of_text|>", "<bos>", "[CLS]")
_END = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")


class HuggingFaceTokenizer(Tokenizer):
    """See `Tokenizer`. Ids are the model's own, so that the specials stand where the model has them.

    Only byte-level tokenizers without a normaliser are taken: others lose bytes.
    """

    kind: ClassVar[str] = "huggingface"

    def __init__(self, text: str) -> None:
        """Store the content of a tokenizer.json.

        Raises:
            ValueError: if it is no tokenizer, or one that loses bytes or has no marks of documents.
        """
        # not needed by any other tokenizer of ours at import.
        from tokenizers import Tokenizer as Engine

        settings = json.loads(text)
        if settings.get("normalizer") is not None:
            raise ValueError("it changes text before it encodes it")
        engine = Engine.from_str(text)
        # the name of a special that stands in a text is text.
        engine.encode_special_tokens = True
        byte_of = {character: byte for byte, character in enumerate(_byte_alphabet())}
        vocabulary = engine.get_vocab(with_added_tokens=True)
        special = {entry["content"] for entry in settings.get("added_tokens", []) if entry.get("special")}
        tokens = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            if token not in special:
                tokens[number] = bytes(byte_of[c] for c in token) if set(token) <= set(byte_of) else token.encode()
        singles = {token: number for number, token in enumerate(tokens) if len(token) == 1}
        if len(singles) < 256:
            raise ValueError(f"it has ids for {len(singles)} of the 256 bytes")
        self._text = text
        self._engine = engine
        self._single = np.array([singles[bytes([byte])] for byte in range(256)], dtype=np.int64)
        self._tokens = tokens
        self.num_bytes: Int64[np.ndarray, " C"] = np.array([len(token) for token in tokens], dtype=np.int64)
        self.dtype = np.dtype(np.uint16 if len(tokens) <= 1 << 16 else np.uint32)
        self.bos_id = _first(vocabulary, _BEGIN)
        self.eos_id = _first(vocabulary, _END)
        self.pad_id = self.eos_id

    @classmethod
    def from_file(cls, path: Path) -> "HuggingFaceTokenizer":
        """Read a tokenizer.json.

        Raises:
            UserError: if it is missing or no lossless byte-level tokenizer.
            StateError: if it is damaged.
        """
        try:
            return cls.from_payload({"tokenizer_json": path.read_text(encoding="utf-8")})
        except OSError as error:
            raise UserError(f"TEACHER must have a tokenizer.json; {path} is not readable: {error.strerror}.") from None
        except json.JSONDecodeError:
            raise StateError(f"{path} must hold JSON, but it is damaged. Restore it.") from None
        except ValueError as error:
            raise UserError(
                f"TEACHER must have a byte-level tokenizer; {path} is another: {error}. Choose another teacher."
            ) from None

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "HuggingFaceTokenizer":
        """Refuse: this kind comes with a model.

        Raises:
            UserError: always.
        """
        raise UserError("tokenizer.kind must be one that can be trained; got huggingface. Try bpe.")

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> "HuggingFaceTokenizer":
        """Build from what `payload` returned."""
        try:
            return cls(payload["tokenizer_json"])
        except (KeyError, TypeError, ValueError):
            raise
        except Exception as error:  # the library raises bare exceptions
            raise ValueError(str(error)) from None

    def payload(self) -> dict[str, Any]:
        """Return the content of tokenizer.json."""
        return {"tokenizer_json": self._text}

    def _encode_text(self, text: str) -> UInt[np.ndarray, " N"]:
        return np.array(self._engine.encode(text, add_special_tokens=False).ids, dtype=self.dtype)

    def _byte_ids(self, data: bytes) -> UInt[np.ndarray, " N"]:
        found: np.ndarray = self._single[np.frombuffer(data, dtype=np.uint8)].astype(self.dtype)
        return found


def _first(vocabulary: dict[str, int], names: tuple[str, ...]) -> int:
    for name in names:
        if name in vocabulary:
            return vocabulary[name]
    raise ValueError(f"it has none of {', '.join(names)}")


def _byte_alphabet() -> list[str]:
    """Return the printable character that stands for each byte in byte-level vocabularies (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]

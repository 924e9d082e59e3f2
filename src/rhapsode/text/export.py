"""Our tokenizers in the format of Hugging Face `tokenizers`, where it can express them.

- bpe becomes BPE over bytes, in which any pair that gives a token may merge.
- bytes, chars and ngram become Unigram over bytes with a score of -1 each: the best path has the fewest tokens, and of
  equally short ways both take that with the longest last token. Beyond 262,144 characters our ngram cuts text, and that
  library does not: a token at a cut may differ.
- ngram with greedy encoding is refused: WordPiece is greedy too, but takes time quadratic in the text.

Bytes that are not UTF-8 cannot reach the library, which takes strings. The three specials are spelt with a character
of private use in front, since the library finds their names in text, and text should hardly hold these.
"""

import json
from pathlib import Path
from typing import Any

from rhapsode.errors import UserError
from rhapsode.runfolder import write_json
from rhapsode.text.bpe_plain import build_plain, byte_chars
from rhapsode.text.tokenizer import NUM_SPECIALS, Tokenizer

SPECIALS = ("\ue000<|pad|>", "\ue000<|bos|>", "\ue000<|eos|>")


def export_tokenizer(tokenizer: Tokenizer, path: str | Path) -> str:
    """Write a tokenizer.json for the library `tokenizers`, and return the name of its model.

    Raises:
        UserError: if the format cannot express the tokenizer.
        StateError: if `path` cannot be written.
    """
    built = build_exported(tokenizer)
    value = json.loads(built.to_str())
    write_json(Path(path), value)
    return str(value["model"]["type"])


def build_exported(tokenizer: Tokenizer) -> Any:
    """Return the `tokenizers.Tokenizer` that gives the same ids, and decodes without the specials.

    Raises:
        UserError: if the format cannot express the tokenizer.
    """
    from tokenizers import AddedToken, decoders

    if getattr(tokenizer, "encoding", "shortest") == "greedy":
        raise UserError(
            "tokenizer.encoding must be shortest to be exported; got greedy, which tokenizer.json can only express "
            "in quadratic time. Train with --encoding shortest."
        )
    if tokenizer.kind not in ("bytes", "chars", "bpe", "ngram"):
        raise UserError(f"tokenizer.kind must be one of bytes, chars, bpe, ngram to be exported; got {tokenizer.kind}.")
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    built = (
        build_plain(tokens, tokenizer.payload()["pattern"], SPECIALS) if tokenizer.kind == "bpe" else _unigram(tokens)
    )
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return built


def _unigram(tokens: list[bytes]) -> Any:
    """Build a model whose best path has the fewest tokens, since each has the same score."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    chars = byte_chars()
    spelt = ["".join(chars[byte] for byte in token) for token in tokens]
    spelt[:NUM_SPECIALS] = SPECIALS
    built = Tokenizer(models.Unigram([(token, -1.0) for token in spelt], unk_id=0, byte_fallback=False))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return built

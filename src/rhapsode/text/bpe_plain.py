"""Byte-pair encoding with Hugging Face `tokenizers`: it learns the merges, and is the plain twin of encoding."""

from collections.abc import Iterable, Sequence
from typing import Any


def learn_merges(texts: Iterable[str], num_merges: int, pattern: str) -> list[bytes]:
    """Return at most `num_merges` tokens, in the order in which they were learnt.

    Two merges can give the same bytes; they are one token then, as the library has it too.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + num_merges,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    to_byte = {char: byte for byte, char in byte_chars().items()}
    tokens = [bytes(to_byte[char] for char in token) for token, _ in vocab]
    return [token for token in tokens if len(token) > 1]


def build_plain(
    tokens: Sequence[bytes], pattern: str, specials: Sequence[str] = ("<special 0>", "<special 1>", "<special 2>")
) -> Any:
    """Build a Hugging Face tokenizer that encodes like `BpeTokenizer` with the same `tokens`.

    Args:
        tokens: all tokens by id; specials are empty.
        pattern: of the cuts before merging.
        specials: how to spell the first ids.
    """
    from tokenizers import Tokenizer, models

    chars = byte_chars()
    spelt = ["".join(chars[byte] for byte in token) for token in tokens]
    vocab = {word or specials[i]: i for i, word in enumerate(spelt)}
    # whatever pair gives a token may be merged, in the order of the tokens.
    merges = [(word[:i], word[i:]) for word in spelt for i in range(1, len(word))]
    merges = [pair for pair in merges if pair[0] in vocab and pair[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer(pattern)
    return tokenizer


def _pre_tokenizer(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_chars() -> dict[int, str]:
    """Return the printable character that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}

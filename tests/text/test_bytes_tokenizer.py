"""One id a byte."""

import random

from rhapsode.text.bytes_tokenizer import BytesTokenizer


def test_ids_are_bytes_after_the_specials() -> None:
    data = random.Random(0).randbytes(5_000)
    assert BytesTokenizer().encode(data).tolist() == [byte + 3 for byte in data]
    assert BytesTokenizer().vocab_size == 259

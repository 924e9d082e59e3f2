"""Tokenizers that many tests share; training them takes a second."""

import sys
from collections.abc import Iterator

import pytest

from rhapsode.text.bpe import BpeTokenizer
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.chars import CharsTokenizer
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.ngram.tokenizer import NgramTokenizer
from rhapsode.text.stdlib import StdlibReader
from rhapsode.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def prose_and_imports() -> tuple[str, set[str]]:
    """The prose, and the modules that reading it for the first time has imported."""
    before = set(sys.modules)
    text = "\n".join(block for raw in StdlibReader(source=False).documents() for block in raw.blocks)
    return text, set(sys.modules) - before


@pytest.fixture(scope="session")
def prose(prose_and_imports: tuple[str, set[str]]) -> str:
    """The standard library's documentation, about 2.2 MB."""
    return prose_and_imports[0]


@pytest.fixture(scope="session")
def imported_by_prose(prose_and_imports: tuple[str, set[str]]) -> set[str]:
    """Modules that reading the documentation has imported."""
    return prose_and_imports[1]


@pytest.fixture(scope="session")
def bpe(prose: str) -> BpeTokenizer:
    """Byte-pair encoding with 2048 ids; a little text of other scripts adds merges beyond ASCII."""
    texts = [prose[:1_000_000], "ééé 中文中文 привет ١٢٣ " * 50, "aaaaaaaa " * 50]
    tokenizer = train_tokenizer(iter(texts), TokenizerConfig(max_vocab_size=2048))
    assert isinstance(tokenizer, BpeTokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def ngram(prose: str) -> NgramTokenizer:
    """N-grams with 1024 ids, some of them beyond ASCII."""
    texts = [prose[:300_000], *["ééé 中文中文 привет ١٢٣ "] * 50]
    return NgramTokenizer.train(iter(texts), TokenizerConfig(kind="ngram", max_vocab_size=1024))


@pytest.fixture(scope="session", params=["bytes", "chars", "bpe", "ngram"])
def any_tokenizer(request: pytest.FixtureRequest) -> Iterator[Tokenizer]:
    """Each kind of tokenizer in turn."""
    if request.param in ("bpe", "ngram"):
        yield request.getfixturevalue(request.param)
    else:
        yield BytesTokenizer() if request.param == "bytes" else CharsTokenizer("é中😀")

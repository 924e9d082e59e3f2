"""What is exported gives the same ids in the library it is for."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhapsode.errors import UserError
from rhapsode.text.export import build_exported, export_tokenizer
from rhapsode.text.ngram.tokenizer import NgramTokenizer
from rhapsode.text.tokenizer import Tokenizer

EXPORTED = {}


@given(st.one_of(st.text(), st.text("ab é中the of,.\n\t")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_same_ids(any_tokenizer: Tokenizer, text: str) -> None:
    exported = EXPORTED.setdefault(any_tokenizer.fingerprint, build_exported(any_tokenizer))
    ids = any_tokenizer.encode(text)
    assert np.array_equal(exported.encode(text).ids, ids)
    assert exported.decode(ids.tolist()) == text


def test_a_file_that_the_library_reads(any_tokenizer: Tokenizer, prose: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library

    path = tmp_path / "hf.json"
    model = export_tokenizer(any_tokenizer, path)
    assert model == ("BPE" if any_tokenizer.kind == "bpe" else "Unigram")
    library = Library.from_file(str(path))
    assert library.get_vocab_size() == any_tokenizer.vocab_size
    rng = random.Random(0)
    for text in (
        prose[100_000:130_000],
        "".join(chr(rng.randrange(1, 0xD800)) for _ in range(3_000)),
        "<|pad|><|bos|><|eos|>",
        "a" * 3_000,
    ):
        ids = any_tokenizer.encode(text)
        assert np.array_equal(library.encode(text).ids, ids)
        assert library.decode([1, *ids.tolist(), 2, 0]) == text


def test_what_the_format_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.encoding must be shortest to be exported; got greedy"):
        export_tokenizer(NgramTokenizer([b"ab"], "greedy"), tmp_path / "hf.json")

    class Foreign(NgramTokenizer):
        kind = "foreign"

    with pytest.raises(UserError, match=r"^tokenizer\.kind must be one of bytes, chars, bpe, ngram .*; got foreign"):
        export_tokenizer(Foreign([b"ab"]), tmp_path / "hf.json")

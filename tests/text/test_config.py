"""Settings are checked before anything is read, and cost nothing to import."""

import subprocess
import sys

import pytest

import rhapsode.text
from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.text.config import TOKENIZERS, DataConfig, TokenizerConfig


def test_defaults() -> None:
    assert TokenizerConfig().kind == "bpe"
    assert DataConfig().val_fraction == 0.1
    assert DataConfig(val_split=0.25).val_fraction == 0.25
    assert DataConfig(val_file="v.txt").val_fraction == 0


def test_cap_must_leave_room_for_bytes() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.max_vocab_size must be at least 259 .*; got 258"):
        build_config(TokenizerConfig, {"max_vocab_size": 258}, "tokenizer")
    assert build_config(TokenizerConfig, {"max_vocab_size": 259}, "tokenizer").max_vocab_size == 259


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.kind must be one of bpe, bytes, chars, ngram; got 'byte'"):
        build_config(TokenizerConfig, {"kind": "byte"}, "tokenizer")


def test_one_source_of_validation() -> None:
    with pytest.raises(UserError, match=r"--val-split and --val-file must not be given together; got 0\.1 and v\.txt"):
        build_config(DataConfig, {"val_split": 0.1, "val_file": "v.txt"}, "data")


@pytest.mark.parametrize("val_split", [0.0, -0.1, 0.95, 1.5])
def test_val_split_is_a_fraction(val_split: float) -> None:
    with pytest.raises(UserError, match=r"data\.val_split must be (greater|less) than"):
        build_config(DataConfig, {"val_split": val_split}, "data")


def test_every_registered_tokenizer_loads() -> None:
    assert TOKENIZERS.names() == ["bytes", "chars", "bpe", "ngram"]
    for name in TOKENIZERS.names():
        assert TOKENIZERS.load(name).kind == name


def test_importing_is_cheap() -> None:
    code = """
import sys
import rhapsode.text, rhapsode.text.config
print([m for m in ("numpy", "torch", "tokenizers", "tiktoken") if m in sys.modules])
import rhapsode.text.prepare, rhapsode.text.batches, rhapsode.text.bpe
print([m for m in ("torch", "tokenizers", "tiktoken") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_lazy_names() -> None:
    for name in rhapsode.text.__all__:
        assert getattr(rhapsode.text, name).__module__.startswith("rhapsode.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rhapsode.text.nothing

from collections.abc import Callable

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.generation.prompt import encode_prompt, max_prompt_tokens
from rhapsode.models.config import ModelConfig
from rhapsode.text.bytes_tokenizer import BytesTokenizer

ROTARY = ModelConfig(vocab_size=259, seq_len=16)
LEARNED = ModelConfig.model_validate({"vocab_size": 259, "seq_len": 16, "attention": {"positions": "learned"}})
Encode = Callable[..., list[int]]


@pytest.fixture
def encode(tokenizer: BytesTokenizer) -> Encode:
    def run(prompt: object, config: ModelConfig = ROTARY, *, bos: bool = False, truncate: bool = False) -> list[int]:
        found = encode_prompt(prompt, tokenizer, config, start_with_bos=bos, truncate=truncate)
        assert found.ids.dtype == np.int64
        assert found.truncated == 0
        return found.ids.tolist()

    return run


def test_text_bytes_and_ids_are_read_alike(encode: Encode, tokenizer: BytesTokenizer) -> None:
    ids = tokenizer.encode("hé")
    assert encode("hé") == encode("hé".encode()) == encode(ids) == encode(ids.astype(np.int32)) == ids.tolist()
    assert encode(b"\xff\x00") == [258, 3]


def test_the_start_of_a_document(encode: Encode) -> None:
    assert encode("a", bos=True) == [1, 100]
    assert encode(np.array([1, 100]), bos=True) == [1, 100]
    assert encode("", bos=True) == encode("", bos=False) == [1]
    assert encode(np.array([], dtype=np.uint16)) == [1]


def test_the_longest_prompt_leaves_room_where_positions_are_numbered(encode: Encode) -> None:
    assert (max_prompt_tokens(ROTARY), max_prompt_tokens(LEARNED)) == (16, 15)
    assert len(encode("a" * 16)) == 16
    assert len(encode("a" * 15, LEARNED)) == 15
    with pytest.raises(
        UserError, match=r"^the prompt must fit the model's context of 16 tokens; got 17 tokens\. .* --truncate\.$"
    ):
        encode("a" * 16, bos=True)
    with pytest.raises(UserError, match=r"context of 16 tokens with room for one new token; got 16 tokens\."):
        encode("a" * 16, LEARNED)


@pytest.mark.parametrize(("config", "kept"), [(ROTARY, 16), (LEARNED, 15)])
def test_truncate_keeps_the_end_and_counts_the_rest(tokenizer: BytesTokenizer, config: ModelConfig, kept: int) -> None:
    text = "0123456789abcdefghijklmnop"
    found = encode_prompt(text, tokenizer, config, start_with_bos=True, truncate=True)
    assert tokenizer.decode(found.ids) == text[-kept:]
    assert found.truncated == len(text) + 1 - kept
    short = encode_prompt("abc", tokenizer, config, start_with_bos=True, truncate=True)
    assert (short.ids.size, short.truncated) == (4, 0)


def test_bad_ids_are_refused(encode: Encode) -> None:
    with pytest.raises(UserError, match=r"^the prompt's ids must lie between 0 and 258; got 259\. Use"):
        encode(np.array([3, 259]))
    with pytest.raises(UserError, match=r"^the prompt's ids must lie between 0 and 258; got -1\. Use"):
        encode(np.array([-1]))
    with pytest.raises(UserError, match=r"^the prompt's ids must be integers in one dimension; got float64 of shape"):
        encode(np.array([1.0]))
    with pytest.raises(UserError, match=r"one dimension; got int64 of shape \(1, 2\)\. Use"):
        encode(np.array([[1, 2]]))


def test_a_lone_surrogate_is_refused(encode: Encode) -> None:
    with pytest.raises(UserError, match="surrogate"):
        encode("a\ud800")


def test_the_tokenizer_must_be_the_models(encode: Encode) -> None:
    with pytest.raises(UserError, match=r"^the tokenizer must have as many ids as the model; got 259 and 300\. Use"):
        encode("a", ModelConfig(vocab_size=300))

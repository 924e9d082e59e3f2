"""Generation along a stream: one state for any length, the same logits as reading the same text at once."""

import numpy as np
import pytest
import torch

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.engine import generate
from rhapsode.generation.prompt import encode_prompt
from rhapsode.generation.stepper import Stepper
from rhapsode.generation.stream_context import StreamContext
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.text.config import TokenizerConfig
from rhapsode.text.tokenizer import train_tokenizer

VOCAB, SEQ_LEN = 259, 8


def make_decoder(embed: str = "hypervector_stream") -> Decoder:
    values = {
        "embed": embed,
        "mix": "gla attention",
        "vocab_size": VOCAB,
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "seq_len": SEQ_LEN,
        "hypervector_stream": {"hd_dim": 160, "chunk": 4, "num_bundles": 2, "timescales": [5.0]},
    }
    model = build_decoder(build_config(ModelConfig, values, "model"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def make_ids(count: int, seed: int = 0) -> list[int]:
    found: list[int] = torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def by_hand(model: Decoder, ids: list[int], kept: int) -> torch.Tensor:
    """Logits after `ids`, the last `kept` of them as tokens and the others in bundles."""
    with torch.no_grad():
        bundles = model.embedder.encode(torch.tensor([ids[: len(ids) - kept]], dtype=torch.int64))
        return model(torch.tensor([ids[len(ids) - kept :]]), bundles=bundles)[0][0, -1]


def test_steps_equal_reading_at_once() -> None:
    model, ids = make_decoder(), make_ids(30)
    stepper = Stepper(model)
    kept = 0
    for count, token in enumerate(ids, 1):
        logits = stepper.feed([token])
        # the window fills to eight, and is then cut to its younger half.
        kept = kept + 1 if kept < SEQ_LEN else SEQ_LEN // 2
        torch.testing.assert_close(logits, by_hand(model, ids[:count], kept), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("context", "kept"), [("ids", 4), ("bundle", 1)])
def test_a_long_prompt_goes_into_bundles(context: str, kept: int) -> None:
    model, ids = make_decoder(), make_ids(27)
    logits = Stepper(model, reads=context).feed(ids)  # type: ignore[arg-type]
    torch.testing.assert_close(logits, by_hand(model, ids, kept), rtol=1e-4, atol=1e-4)


def test_a_short_prompt_is_read_token_by_token_or_through_bundles() -> None:
    model, ids = make_decoder(), make_ids(6)
    torch.testing.assert_close(Stepper(model).feed(ids), by_hand(model, ids, 6), rtol=1e-4, atol=1e-4)
    bundled = Stepper(model, reads="bundle").feed(ids)
    torch.testing.assert_close(bundled, by_hand(model, ids, 1), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(bundled, by_hand(model, ids, 6)).all()


def test_a_context_may_be_taken_back() -> None:
    model, ids = make_decoder(), make_ids(12)
    context, other = StreamContext(model), StreamContext(model)
    context.feed(ids[:3])
    context.feed(ids[3:6])
    context.rewind(2)
    other.feed(ids[:4])
    for first, second in zip(context.feed(ids[6:]), other.feed(ids[6:]), strict=True):
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


def test_the_context_keeps_one_size() -> None:
    context = StreamContext(make_decoder())
    for seed in range(20):
        read, _ = context.feed(make_ids(11, seed))
        assert 1 <= len(read) <= SEQ_LEN
        assert len(context._window) <= SEQ_LEN


def test_bundles_need_a_model_that_streams() -> None:
    with pytest.raises(UserError, match=r"^--context bundle must go to a model with model.embed = hypervector_stream"):
        Stepper(make_decoder("table"), reads="bundle")


@pytest.mark.parametrize("decode", ["exact", "draft"])
@pytest.mark.parametrize("context", ["ids", "bundle"])
def test_several_tokens_a_pass(context: str, decode: str) -> None:
    model = make_decoder()
    tokenizer = train_tokenizer(["abc"], TokenizerConfig(kind="bytes"))
    prompt = "abcabcabc abcabcabc abcabcabc"
    settings = {"max_new_tokens": 30, "temperature": 0, "context": context}
    plain, several = (
        generate(model, tokenizer, prompt, GenerationConfig(**settings, decode=kind), start_with_bos=False)
        for kind in ("plain", decode)
    )
    assert several.tokens == plain.tokens
    if decode == "exact":
        assert several.ids == plain.ids


@pytest.mark.parametrize("context", ["ids", "bundle"])
def test_ids_and_bundles_both_drive_the_generator(context: str) -> None:
    model = make_decoder()
    tokenizer = train_tokenizer(["abc"], TokenizerConfig(kind="bytes"))
    config = GenerationConfig(max_new_tokens=20, temperature=0, context=context)  # type: ignore[arg-type]
    prompt = "a prompt that is longer than the context of the model"
    assert encode_prompt(prompt, tokenizer, model.config, start_with_bos=False, truncate=False).truncated == 0
    first = generate(model, tokenizer, prompt, config, start_with_bos=False)
    again = generate(model, tokenizer, prompt, config, start_with_bos=False)
    assert first.ids == again.ids
    assert first.prompt_tokens == len(prompt)
    ids = np.frombuffer(prompt.encode(), dtype=np.uint8).astype(np.int64) + 3
    logits = by_hand(model, ids.tolist(), 4 if context == "ids" else 1)
    assert first.ids[0] == int(logits[2:].argmax()) + 2

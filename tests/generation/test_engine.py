from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError, UserError
from rhapsode.generation import Chunk, GenerationConfig, generate, sample, stream
from rhapsode.models.decoder import Decoder
from rhapsode.text.bytes_tokenizer import BytesTokenizer

MakeModel = Callable[..., Decoder]
MakeSpeaker = Callable[[list[int]], Decoder]
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "table": {"embed": "table"},
    "sliding": {"mix": "sliding sliding attention", "num_layers": 3, "attention": {"window": 5}},
    "learned": {"attention": {"positions": "learned"}},
    "tied": {"predict": "tied", "norm": "layer", "feed_forward": "gelu"},
    "ngrams": {"hashed_ngrams": {"num_buckets": 64, "orders": (2, 3, 4), "dim": 8}},
    "grouped": {"attention": {"num_kv_heads": 2, "qk_norm": False}, "logit_soft_cap": 0.0},
    "gpt": {"embed": "table", "predict": "tied", "attention": {"positions": "learned"}, "embed_norm": False},
}


def generate_plain(model: Decoder, prompt: list[int], config: GenerationConfig) -> list[int]:
    """Read everything anew for every token; no cache."""
    ids, start, limit = list(prompt), 0, model.config.max_positions
    generator = torch.Generator().manual_seed(config.seed or 0)
    for _ in range(config.max_new_tokens):
        if limit is not None and len(ids) - start > limit:
            start = len(ids) - limit // 2
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:]]))[0][0, -1]
        ids.append(sample(logits, config, generator, torch.tensor(ids)))
        if ids[-1] == BytesTokenizer.eos_id:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_gives_what_reading_everything_anew_gives(
    make_model: MakeModel, tokenizer: BytesTokenizer, recipe: str, temperature: float
) -> None:
    # 40 tokens after 9: three contexts of 16, so caches are trimmed and learnt positions start again.
    config = GenerationConfig(max_new_tokens=40, temperature=temperature, repetition_penalty=1.3, seed=7)
    model = make_model(seed=4, **RECIPES[recipe])
    result = generate(model, tokenizer, "a prompt", config, start_with_bos=True)
    assert list(result.ids) == generate_plain(model, [1, *tokenizer.encode("a prompt").tolist()], config)
    assert result.tokens > 16
    assert len(set(result.ids)) > 5


def read(chunks: Any) -> tuple[str, tuple[int, ...], list[Chunk]]:
    found = list(chunks)
    return "".join(chunk.text for chunk in found), sum((chunk.ids for chunk in found), ()), found


@pytest.mark.parametrize("seed", range(4))
def test_the_chunks_add_up_to_the_result(make_model: MakeModel, tokenizer: BytesTokenizer, seed: int) -> None:
    # random bytes: half characters and invalid ones everywhere.
    config = GenerationConfig(max_new_tokens=60, temperature=2.0, top_k=None, top_p=1.0, seed=seed)
    model = make_model(seed=seed)
    chunks = stream(model, tokenizer, b"\xe4\xb8", config, start_with_bos=False)
    text, ids, found = read(chunks)
    result = generate(model, tokenizer, b"\xe4\xb8", config, start_with_bos=False)
    assert (text, ids) == (result.text, result.ids)
    assert text == tokenizer.decode(np.array(ids))
    assert [chunk.finish_reason for chunk in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1].finish_reason == result.finish_reason
    assert all(chunk.text for chunk in found[:-1])
    assert chunks.generation is not None
    assert chunks.generation.text == text
    with pytest.raises(StopIteration):
        next(chunks)


def test_characters_of_several_tokens_come_whole(make_speaker: MakeSpeaker, tokenizer: BytesTokenizer) -> None:
    spoken = tokenizer.encode("ab é世🙂!").tolist()
    model = make_speaker([*spoken, tokenizer.eos_id])
    config = GenerationConfig(temperature=0)
    text, ids, found = read(stream(model, tokenizer, "a", config, start_with_bos=True))
    assert [chunk.text for chunk in found] == ["b", " ", "é", "世", "🙂", "!", ""]
    assert [len(chunk.ids) for chunk in found] == [1, 1, 2, 3, 4, 1, 1]
    assert found[-1].finish_reason == "stop"
    assert ids == (*spoken[1:], tokenizer.eos_id)
    assert text == "b é世🙂!"


def test_half_a_character_at_the_end_is_shown_as_such(make_speaker: MakeSpeaker, tokenizer: BytesTokenizer) -> None:
    model = make_speaker(tokenizer.encode("ab世").tolist())
    result = generate(model, tokenizer, "a", GenerationConfig(temperature=0, max_new_tokens=3), start_with_bos=False)
    assert (result.text, result.finish_reason, result.tokens) == ("b\ufffd", "length", 3)


def test_the_end_of_the_document_ends(make_speaker: MakeSpeaker, tokenizer: BytesTokenizer) -> None:
    model = make_speaker([1, *tokenizer.encode("cat").tolist(), tokenizer.eos_id])
    result = generate(model, tokenizer, "", GenerationConfig(temperature=0), start_with_bos=False)
    assert (result.text, result.finish_reason, result.tokens) == ("cat", "stop", 4)
    assert (result.prompt_tokens, result.truncated) == (1, 0)


@pytest.mark.parametrize(
    ("stop", "text", "reason", "tokens"),
    [
        (("ef",), "bcd", "stop", 5),
        (("defg", "e"), "bcd", "stop", 4),
        (("b",), "", "stop", 1),
        (("hiX",), "bcdefghi", "stop", 9),
        (("fgX", "X"), "bcdefghi", "stop", 9),
        (("i", "defghi"), "bc", "stop", 8),
    ],
)
def test_a_stop_string_over_several_tokens_ends_and_is_never_shown(
    make_speaker: MakeSpeaker,
    tokenizer: BytesTokenizer,
    stop: tuple[str, ...],
    text: str,
    reason: str,
    tokens: int,
) -> None:
    model = make_speaker([*tokenizer.encode("abcdefghi").tolist(), tokenizer.eos_id])
    config = GenerationConfig(temperature=0, stop=stop)
    shown, ids, found = read(stream(model, tokenizer, "a", config, start_with_bos=False))
    assert (shown, len(ids), found[-1].finish_reason) == (text, tokens, reason)


def test_a_stop_string_in_the_prompt_does_not_stop(make_speaker: MakeSpeaker, tokenizer: BytesTokenizer) -> None:
    model = make_speaker(tokenizer.encode("abcd").tolist())
    config = GenerationConfig(temperature=0, stop=("ab",), max_new_tokens=2)
    assert generate(model, tokenizer, "a", config, start_with_bos=False).text == "bc"
    held = GenerationConfig(temperature=0, stop=("cdX",), max_new_tokens=3)
    result = generate(model, tokenizer, "a", held, start_with_bos=False)
    assert (result.text, result.finish_reason) == ("bcd", "length")


def test_one_seed_one_text(make_model: MakeModel, tokenizer: BytesTokenizer) -> None:
    model = make_model()

    def texts(seed: int | None) -> tuple[str, int]:
        config = GenerationConfig(max_new_tokens=30, temperature=2.0, top_p=1.0, seed=seed)
        result = generate(model, tokenizer, "once", config, start_with_bos=True)
        return result.text, result.seed

    assert texts(5) == texts(5)
    assert texts(5)[0] != texts(6)[0]
    fresh, seed = texts(None)
    assert texts(None)[0] != fresh
    assert texts(seed) == (fresh, seed)


def test_streams_share_a_model_and_leave_no_trace(make_model: MakeModel, tokenizer: BytesTokenizer) -> None:
    model = make_model()
    model.compute_dtype = torch.bfloat16
    config = GenerationConfig(max_new_tokens=20, temperature=0)
    alone = [generate(model, tokenizer, prompt, config, start_with_bos=True).ids for prompt in ("one", "two")]
    streams = [stream(model, tokenizer, prompt, config, start_with_bos=True) for prompt in ("one", "two")]
    ids: list[tuple[int, ...]] = [(), ()]
    for number in [0, 1] * 25:
        chunk = next(streams[number], None)
        ids[number] += chunk.ids if chunk else ()
        # what the reader does between two chunks runs as if nothing were being generated.
        assert not torch.is_inference_mode_enabled()
        assert model.compute_dtype == torch.bfloat16
    assert ids == alone
    model.loss(torch.tensor([[5, 6]]), torch.tensor([[6, 7]])).sum().backward()
    assert model.head.linear.weight.grad is not None


def test_the_account_of_a_generation(make_model: MakeModel, tokenizer: BytesTokenizer) -> None:
    config = GenerationConfig(max_new_tokens=12, temperature=0, truncate=True)
    result = generate(make_model(), tokenizer, "x" * 30, config, start_with_bos=True)
    assert (result.truncated, result.prompt_tokens) == (15, 16)
    assert result.tokens == len(result.ids) == 12
    assert result.finish_reason == "length"
    assert 0 < result.time_to_first_token_s < result.latency_s
    assert result.tokens_per_s == pytest.approx(result.tokens / result.latency_s)
    kept = generate(make_model(), tokenizer, "x" * 16, config, start_with_bos=False)
    assert kept.ids == result.ids


def test_what_is_wrong_with_a_request_is_said_before_the_first_chunk(
    make_model: MakeModel, tokenizer: BytesTokenizer
) -> None:
    with pytest.raises(UserError, match=r"^the prompt must fit the model's context of 16 tokens; got 31 tokens\."):
        stream(make_model(), tokenizer, "x" * 30, GenerationConfig(), start_with_bos=True)


def test_a_damaged_model_is_an_error(make_model: MakeModel, tokenizer: BytesTokenizer) -> None:
    model = make_model()
    with torch.no_grad():
        model.head.linear.weight[40] = float("nan")
    with pytest.raises(StateError, match=r"^the model's logits must be finite; got nan\."):
        generate(model, tokenizer, "a", GenerationConfig(), start_with_bos=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_text(make_model: MakeModel, tokenizer: BytesTokenizer) -> None:
    config = GenerationConfig(max_new_tokens=40, temperature=1.0)
    on_cpu = generate(make_model(), tokenizer, "a", config, start_with_bos=True)
    on_gpu = generate(make_model().cuda(), tokenizer, "a", config, start_with_bos=True)
    assert on_gpu.ids == on_cpu.ids

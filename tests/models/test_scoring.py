"""Scores are those of reading every prefix anew; figures are those that a person gets by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.models.scoring import bits_per_byte, score_figures, score_tokens
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.shards import TokenArray

SEQ_LEN = 8


def make_model(**settings: Any) -> Decoder:
    """A random model without a zero weight."""
    values = {"vocab_size": 259, "width": 16, "num_layers": 2, "num_heads": 2, "seq_len": SEQ_LEN, **settings}
    model = build_decoder(ModelConfig.model_validate({"hashed_ngrams": {"num_buckets": 64}, **values}), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def make_tokens(count: int, seed: int = 0) -> TokenArray:
    ids = np.random.default_rng(seed).integers(0, 259, count).astype(np.uint16)
    return TokenArray(ids, np.zeros(1, dtype=np.int64), count)


@torch.inference_mode()
def plain_scores(model: Decoder, ids: np.ndarray, stride: int) -> list[float]:
    """Score each token by itself: the definition of sliding windows, one forward pass a token.

    Window k reads from k * stride, the last one from where it ends with the text; a token belongs to the first window
    that holds it as a target.
    """
    nats = []
    for target in range(1, len(ids)):
        window = max(0, -(-(target - SEQ_LEN) // stride))
        start = min(window * stride, max(0, len(ids) - 1 - SEQ_LEN))
        assert target - start <= SEQ_LEN
        prefix = torch.from_numpy(ids[start:target].astype(np.int64))[None]
        logits = model(prefix)[0][0, -1]
        nats.append(float(-torch.log_softmax(logits.double(), -1)[int(ids[target])]))
    return nats


@pytest.mark.parametrize("settings", [{}, {"embed": "table", "predict": "tied", "attention": {"positions": "learned"}}])
@pytest.mark.parametrize("stride", [1, 2, 5, SEQ_LEN, None])
@pytest.mark.parametrize("count", [2, SEQ_LEN, SEQ_LEN + 1, SEQ_LEN + 2, 61])
def test_every_token_is_scored_as_if_alone(settings: dict[str, Any], stride: int | None, count: int) -> None:
    model, tokens = make_model(**settings), make_tokens(count)
    scores = score_tokens(model, tokens, stride=stride, batch_size=3)
    assert scores.dtype == np.float32
    # both are float32 sums of some hundred terms, of logits up to 15.
    np.testing.assert_allclose(scores, plain_scores(model, tokens.ids, stride or SEQ_LEN // 4), rtol=1e-5, atol=1e-5)


def test_batches_change_nothing_but_the_time() -> None:
    model, tokens = make_model(), make_tokens(100)
    first = score_tokens(model, tokens, stride=3, batch_size=1)
    for batch_size in (2, 7, 100):
        np.testing.assert_allclose(score_tokens(model, tokens, stride=3, batch_size=batch_size), first, rtol=1e-5)


def test_progress_counts_every_token_once() -> None:
    counts: list[int] = []
    score_tokens(make_model(), make_tokens(50), stride=2, batch_size=4, progress=counts.append)
    assert sum(counts) == 49
    assert len(counts) > 3


@pytest.mark.parametrize("stride", [0, -1, SEQ_LEN + 1])
def test_a_stride_lies_within_the_window(stride: int) -> None:
    with pytest.raises(UserError, match=rf"^--stride must lie between 1 and seq_len; got {stride} and 8\."):
        score_tokens(make_model(), make_tokens(50), stride=stride)


def test_bits_per_byte_by_hand() -> None:
    num_bytes = np.array([0, 0, 1, 3])
    nats = np.array([5.0, np.log(2.0), 2 * np.log(2.0), 4 * np.log(2.0)])
    # 1 + 2 + 4 bits over 1 + 1 + 3 bytes; the mark in front counts on neither side.
    assert bits_per_byte(nats, np.array([0, 2, 2, 3]), num_bytes) == pytest.approx(7 / 5)
    assert bits_per_byte(nats[1:2], np.array([3]), num_bytes) == pytest.approx(1 / 3)


def test_a_model_that_guesses_needs_the_logarithm_of_the_vocabulary() -> None:
    model = make_model()
    with torch.no_grad():
        model.head.linear.weight.zero_()
    tokens = make_tokens(200)
    figures = score_figures(model, tokens, BytesTokenizer())
    assert figures["nats_per_token"] == pytest.approx(np.log(259), rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(np.log2(259), rel=1e-6)
    assert figures["n"] == 199
    # every token costs the same: the interval has no width.
    assert figures["interval"] == pytest.approx([np.log2(259)] * 2, rel=1e-6)


def test_figures_are_those_of_the_scores() -> None:
    model, tokens, tokenizer = make_model(), make_tokens(300), BytesTokenizer()
    figures = score_figures(model, tokens, tokenizer, stride=4)
    nats = score_tokens(model, tokens, stride=4)
    text = tokens.ids[1:] >= 3
    assert not text.all()
    assert figures["bits_per_byte"] == pytest.approx(nats[text].sum() / np.log(2) / text.sum(), rel=1e-6)
    assert figures["nats_per_token"] == pytest.approx(nats.mean(), rel=1e-6)
    for figure, interval in (("bits_per_byte", "interval"), ("nats_per_token", "nats_interval")):
        low, high = figures[interval]
        assert low < figures[figure] < high
    head = score_figures(model, tokens, tokenizer, max_tokens=100, stride=4)
    alone = score_figures(model, TokenArray(tokens.ids[:100], tokens.doc_starts, 0), tokenizer, stride=4)
    assert head == alone
    assert head["n"] == 99


def test_isolated_documents_are_scored_as_if_each_came_alone() -> None:
    model = make_model()
    rng = np.random.default_rng(4)
    documents = [
        np.concatenate([[BytesTokenizer.bos_id], rng.integers(3, 259, n), [BytesTokenizer.eos_id]]) for n in (5, 9, 30)
    ]
    ids = np.concatenate(documents).astype(np.uint16)
    starts = np.cumsum([0, *(len(d) for d in documents[:-1])])
    together = TokenArray(ids, starts, len(ids) - 6)
    isolated = score_tokens(model, together, stride=1, isolate_documents=True)
    for document, start in zip(documents[:2], starts, strict=False):
        alone = score_tokens(model, TokenArray(document.astype(np.uint16), np.zeros(1, np.int64), 0), stride=1)
        np.testing.assert_allclose(isolated[start : start + len(alone)], alone, rtol=1e-4, atol=1e-5)
    mixed = score_tokens(model, together, stride=1)
    assert np.abs(mixed - isolated)[len(documents[0]) :].max() > 1e-3


def test_text_too_short_to_score() -> None:
    tokenizer = BytesTokenizer()
    one = TokenArray(np.array([tokenizer.bos_id, 65, tokenizer.eos_id], np.uint16), np.zeros(1, np.int64), 1)
    with pytest.raises(UserError, match=r"^text must hold at least 2 tokens that can be scored; got 1\. Give"):
        score_figures(make_model(), one, tokenizer)
    with pytest.raises(UserError, match=r"^text must hold at least 2 tokens to be scored; got 1\. Give more text\.$"):
        score_tokens(make_model(), make_tokens(1))

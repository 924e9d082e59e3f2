"""Decoders with bundles: in front of tokens, alone with labels, and along a stream that does not end."""

import math
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from rhapsode.config import build_config, merge
from rhapsode.errors import StateError, UserError
from rhapsode.models.budget import count_parameters, solve_sizes
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.models.scoring import score_tokens
from rhapsode.models.streaming import score_stream
from rhapsode.text.batches import past_windows
from rhapsode.text.shards import TokenArray

VOCAB, SEQ_LEN = 37, 8
BASE: dict[str, Any] = {
    "embed": "hypervector_stream",
    "mix": "gla attention",
    "vocab_size": VOCAB,
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "seq_len": SEQ_LEN,
    "hypervector_stream": {"hd_dim": 160, "chunk": 4, "num_bundles": 2},
}
PARALLEL: dict[str, Any] = {"hypervector_stream": {"mode": "parallel"}}


def make_config(over: dict[str, Any] | None = None) -> ModelConfig:
    return build_config(ModelConfig, merge(BASE, over or {}), "model")


def make_decoder(over: dict[str, Any] | None = None) -> Decoder:
    model = build_decoder(make_config(over), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def make_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("over", [{}, PARALLEL], ids=["prefix", "parallel"])
@pytest.mark.parametrize("adapter", ["unbind", "broadcast", "learned"])
def test_bundles_and_full_sequence_labels(over: dict[str, Any], adapter: str) -> None:
    """The case that failed in the document: 64 bundles of 128 numbers, labels (64, 128)."""
    stream = {"hd_dim": 128, "chunk": 3, "num_bundles": 1, "adapter": adapter}
    model = make_decoder(merge({"seq_len": 128, "hypervector_stream": stream}, over))
    bundles = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    labels = make_ids(64, 128)
    logits = model.bundle_logits(bundles, labels)
    assert (logits.shape, logits.dtype) == ((64, 128, VOCAB), torch.float32)
    losses = model.loss(bundles, labels)
    assert losses.shape == (64, 128)
    expected = -torch.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(losses, expected)
    losses.mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for name, p in model.named_parameters() if "table" not in name
    )


@pytest.mark.parametrize("over", [{}, PARALLEL], ids=["prefix", "parallel"])
@torch.no_grad()
def test_future_labels_change_no_output(over: dict[str, Any]) -> None:
    model = make_decoder(over)
    bundles = model.embedder.encode(make_ids(3, 8))
    labels = make_ids(3, SEQ_LEN, seed=1)
    logits = model.bundle_logits(bundles, labels)
    for cut in (0, 3, SEQ_LEN - 1):
        order = torch.randperm(SEQ_LEN - cut, generator=torch.Generator().manual_seed(cut)) + cut
        shuffled = torch.cat([labels[:, :cut], labels[:, order]], dim=1)
        assert torch.equal(model.bundle_logits(bundles, shuffled)[:, : cut + 1], logits[:, : cut + 1])
    # other bundles change every output.
    other = model.bundle_logits(model.embedder.encode(make_ids(3, 8, seed=5)), labels)
    assert not torch.isclose(other, logits).all(dim=-1).any()


@torch.no_grad()
def test_labels_alone_equal_tokens_behind_the_same_bundles() -> None:
    model = make_decoder()
    bundles, labels = model.embedder.encode(make_ids(2, 8)), make_ids(2, 6, seed=1)
    expected, _ = model(labels, bundles=bundles)
    torch.testing.assert_close(model.bundle_logits(bundles, labels)[:, 1:], expected[:, :-1])


@pytest.mark.parametrize("over", [{}, PARALLEL], ids=["prefix", "parallel"])
def test_mismatched_labels_get_one_sentence(over: dict[str, Any]) -> None:
    model = make_decoder(over)
    message = r"^labels must have one row of at least one id for each bundle; got shape \({}\) for bundles of shape"
    with pytest.raises(UserError, match=message.format("4, 5")):
        model.loss(torch.randn(3, 160), make_ids(4, 5))
    with pytest.raises(UserError, match=message.format("3, 0")):
        model.loss(torch.randn(3, 160), make_ids(3, 0))
    for wrong in (-1, VOCAB):
        labels = make_ids(3, 5)
        labels[1, 2] = wrong
        with pytest.raises(UserError, match=rf"^token ids must lie between 0 and {VOCAB - 1}; got"):
            model.loss(torch.randn(3, 160), labels)


@pytest.mark.parametrize("over", [{}, PARALLEL], ids=["prefix", "parallel"])
def test_labels_of_another_kind_get_one_sentence(over: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # outside of tests nothing checks annotations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = make_decoder(over)
    # the document's own labels: one id a bundle.
    with pytest.raises(UserError, match=r"^labels must have one row of .*; got shape \(3,\) for bundles of shape"):
        model.loss(torch.randn(3, 160), make_ids(3))
    with pytest.raises(UserError, match=r"^ids and labels must be whole numbers; got torch.float32. Give int64"):
        model.loss(torch.randn(3, 160), torch.rand(3, 5))
    with pytest.raises(UserError, match=r"^bundles must have .*; got shape \(3, 1, 1, 160\)"):
        model.loss(torch.randn(3, 1, 1, 160), make_ids(3, 5))


def test_bundles_of_other_rows_get_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"^bundles must be as many as rows of ids; got 3 and 2"):
        make_decoder()(make_ids(2, 4), bundles=torch.randn(3, 160))


def test_ids_beyond_the_vocabulary_are_refused_by_every_embedding() -> None:
    for embed in ("table", "hashed_ngrams", "low_rank", "hash", "quotient_remainder", "hypervector_stream"):
        model = make_decoder({"embed": embed, "hashed_ngrams": {"num_buckets": 8}})
        ids = make_ids(2, 4)
        for wrong in (-1, VOCAB):
            bad = ids.clone()
            bad[1, 3] = wrong
            with pytest.raises(UserError, match=rf"^token ids must lie between 0 and {VOCAB - 1}; got"):
                model(bad)
            with pytest.raises(UserError, match=r"^token ids must lie between"):
                model.loss(ids, bad)


def test_what_does_not_fit_is_refused() -> None:
    plain = make_decoder({"embed": "table"})
    bundles = torch.randn(2, 160)
    with pytest.raises(
        UserError, match=r"^bundles must go to a model with model.embed = hypervector_stream; got table"
    ):
        plain.bundle_logits(bundles, make_ids(2, 4))
    with pytest.raises(UserError, match=r"^bundles must go to a model"):
        plain(make_ids(2, 4), bundles=bundles)
    model = make_decoder()
    _, state = model(make_ids(2, 4), bundles=bundles)
    with pytest.raises(StateError, match=r"^bundles must come with the first call of a sequence"):
        model(make_ids(2, 4), state, bundles=bundles)
    with pytest.raises(
        UserError, match=r"^model.hypervector_stream.mode must be prefix to read tokens one after another"
    ):
        make_decoder(PARALLEL)(make_ids(2, 4))
    with pytest.raises(UserError, match=r"^a stream must be scored by a model with model.embed = hypervector_stream"):
        score_stream(plain, [])
    with pytest.raises(UserError, match=r"^model.hypervector_stream.mode must be prefix to score a stream token by"):
        score_stream(make_decoder(PARALLEL), [])
    for wrong in (-1, VOCAB):
        with pytest.raises(UserError, match=r"^token ids must lie between 0 and"):
            list(score_stream(model, [np.array([3, wrong, 4])]))


@torch.no_grad()
def test_the_past_reaches_the_model_only_through_bundles() -> None:
    model = make_decoder()
    ids, targets = make_ids(2, SEQ_LEN, seed=1), make_ids(2, SEQ_LEN, seed=2)
    past = make_ids(2, 8)
    base = model.loss(ids, targets, bundles=model.encode_past(past, ids, targets))
    # ids older than the bundles' reach change nothing; younger ones and none at all do.
    longer = torch.cat([make_ids(2, 5, seed=3), past], dim=1)
    assert torch.equal(model.loss(ids, targets, bundles=model.encode_past(longer, ids, targets)), base)
    assert not torch.isclose(model.loss(ids, targets), base).all(dim=-1).any()
    # targets do not enter; in a model that reconstructs, nothing but targets does.
    assert torch.equal(model.loss(ids, targets, bundles=model.encode_past(past, ids, targets + 1)), base)
    other = make_decoder({"hypervector_stream": {"task": "reconstruct"}})
    assert torch.equal(other.encode_past(past, ids, targets), other.encode_past(longer, ids, targets))


@torch.no_grad()
def test_in_parallel_mode_the_past_ends_before_the_first_target() -> None:
    model = make_decoder(PARALLEL)
    past, ids, targets = make_ids(2, 8), make_ids(2, SEQ_LEN, seed=1), make_ids(2, SEQ_LEN, seed=2)
    bundles = model.encode_past(past, ids, targets)
    assert bundles is not None
    torch.testing.assert_close(bundles, model.embedder.encode(torch.cat([past, ids[:, :1]], dim=1)))
    torch.testing.assert_close(model.loss(ids, targets, bundles=bundles), model.loss(bundles, targets))
    assert model.loss(ids, targets).isfinite().all()


def make_tokens(length: int) -> TokenArray:
    ids = make_ids(length, seed=4).numpy().astype(np.uint16)
    return TokenArray(ids, np.array([0], dtype=np.int64), length)


def test_windows_are_scored_with_their_past() -> None:
    model, tokens = make_decoder(), make_tokens(40)
    nats = score_tokens(model, tokens, stride=SEQ_LEN, batch_size=2)
    # the third window begins at 16: its past are the eight tokens before it.
    past = torch.from_numpy(tokens.ids[None, 8:16].astype(np.int64))
    window = torch.from_numpy(tokens.ids[None, 16:25].astype(np.int64))
    with torch.no_grad():
        expected = model.loss(window[:, :-1], window[:, 1:], bundles=model.embedder.encode(past))[0]
    torch.testing.assert_close(torch.from_numpy(nats[16:24]), expected, rtol=1e-5, atol=1e-5)


def test_a_past_ends_at_its_document() -> None:
    tokens = TokenArray(np.arange(1, 21, dtype=np.uint16), np.array([0, 7, 12], dtype=np.int64), 20)
    past = past_windows(tokens, np.array([0, 3, 7, 9, 14]), 4)
    expected = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 8, 9], [0, 0, 13, 14]]
    assert past.tolist() == expected


def test_a_stream_is_scored_alike_in_any_pieces() -> None:
    model = make_decoder({"hypervector_stream": {"timescales": [5.0]}})
    ids = make_tokens(61).ids
    whole = np.concatenate(list(score_stream(model, [ids])))
    assert whole.shape == (60,)
    # pieces of half a window cut the stream where one call does.
    pieces = np.concatenate(list(score_stream(model, [ids[i : i + 4] for i in range(0, 61, 4)])))
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-5)
    # by hand: ids 32..35 from a window of the four before, and bundles of all before these.
    window = torch.from_numpy(ids[None, 28:36].astype(np.int64))
    with torch.no_grad():
        bundles = model.embedder.encode(torch.from_numpy(ids[None, :28].astype(np.int64)))
        expected = model.loss(window[:, :-1], window[:, 1:], bundles=bundles)[0, -4:]
    np.testing.assert_allclose(whole[31:35], expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("params", [60_000, 300_000])
@pytest.mark.parametrize("chunk", [3, 7, 32])
def test_a_budget_solves_bundles_too(params: int, chunk: int) -> None:
    sizes = ("width", "num_layers", "num_heads", "vocab_size")
    free = make_config({**dict.fromkeys(sizes), "hypervector_stream": {"hd_dim": None, "chunk": chunk}})
    solved = solve_sizes(free, params, VOCAB)
    hd_dim, width = solved.hypervector_stream.hd_dim, solved.width
    assert hd_dim is not None
    assert width is not None
    assert hd_dim % width == 0
    assert 40 * chunk <= hd_dim < 40 * chunk + width
    assert 0.9 * params <= count_parameters(solved) <= params
    assert count_parameters(solved) == Decoder(solved).num_parameters()


def test_hashed_tokens_take_their_share_of_the_budget_where_there_are_tokens() -> None:
    sizes = ("width", "num_layers", "num_heads", "vocab_size")
    stream = {"hd_dim": None, "tokens": "hashed_ngrams"}
    hashed = solve_sizes(make_config({**dict.fromkeys(sizes), "hypervector_stream": stream}), 300_000, VOCAB)
    assert hashed.token_embedder == "hashed_ngrams"
    assert hashed.hashed_ngrams.num_buckets is not None
    assert 0.99 * 300_000 <= count_parameters(hashed) == Decoder(hashed).num_parameters() <= 300_000
    # in parallel mode no token is read: tables would be parameters that nothing trains.
    alone = make_config({**dict.fromkeys(sizes), "hypervector_stream": {**stream, "mode": "parallel"}})
    assert alone.token_embedder == "table"
    assert solve_sizes(alone, 300_000, VOCAB).hashed_ngrams.num_buckets is None


def test_a_given_hd_dim_chooses_the_width() -> None:
    sizes = ("width", "num_layers", "num_heads", "vocab_size")
    free = make_config({**dict.fromkeys(sizes), "hypervector_stream": {"hd_dim": 336, "chunk": 8}})
    solved = solve_sizes(free, 105_000, VOCAB)
    assert solved.width is not None
    assert 336 % solved.width == 0
    with pytest.raises(UserError, match=r"hd_dim must be a multiple of an even width from 32 on; got 331. Try 352"):
        solve_sizes(make_config({**dict.fromkeys(sizes), "hypervector_stream": {"hd_dim": 331}}), 100_000, VOCAB)
    with pytest.raises(UserError, match=r"^model.hypervector_stream.hd_dim must be a multiple of model.width"):
        make_config({"hypervector_stream": {"hd_dim": 150}})


def test_bundles_above_their_capacity_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"chunk should be at most hd_dim / 40 = 4 tokens; got 10: expect 42% to 78%"):
        build_decoder(make_config({"hypervector_stream": {"chunk": 10}}), 0)
    # such a half-life makes the noise of ten whole tokens.
    half_life = 20 * math.log(2)
    with pytest.warns(
        UserWarning, match=r"timescales should be at most 5.55 tokens with hd_dim 160; got 13.86.*: expect 42"
    ):
        build_decoder(make_config({"hypervector_stream": {"timescales": [half_life]}}), 0)
    assert make_config({"hypervector_stream": {"timescales": [5.5]}}).hypervector_stream.capacity_warnings() == []


@pytest.mark.parametrize("head", ["factored", "squared_amplitude"])
def test_a_vocabulary_is_chosen_for_the_rank_of_the_head(head: str) -> None:
    from rhapsode.models.budget import choose_vocab_size

    free = make_config({"embed": "table", "width": 64, "predict": head, "factored": {"rank": 16}})
    assert choose_vocab_size(free, 1_000_000, 259) == 200_000 // 80

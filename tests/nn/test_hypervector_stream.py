"""The embedder that keeps a stream: fixed size, splits, documents, and every adapter."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.nn import hypervector_stream
from rhapsode.nn.config import HypervectorStreamConfig
from rhapsode.nn.embedders import TableEmbedder
from rhapsode.nn.hypervector_stream import DOCUMENT_START, HypervectorStreamEmbedder

VOCAB, WIDTH, SEQ_LEN = 40, 8, 12
ADAPTERS = ["unbind", "broadcast", "learned"]
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


def make_embedder(**over: Any) -> HypervectorStreamEmbedder:
    config = HypervectorStreamConfig(**{"hd_dim": 24, "chunk": 3, "num_bundles": 2, "timescales": (4.0,), **over})
    torch.manual_seed(0)
    embedder = HypervectorStreamEmbedder(TableEmbedder(VOCAB, WIDTH, None), config, SEQ_LEN)
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.normal_()
    return embedder


def make_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(splits=st.lists(st.integers(0, 30), max_size=5).map(sorted), with_start=st.booleans())
def test_a_stream_may_come_in_any_pieces(splits: list[int], with_start: bool) -> None:
    embedder = make_embedder(timescales=(2.0, 8.0))
    ids = make_ids(2, 30)
    if with_start:
        ids[0, 17] = DOCUMENT_START
    whole = embedder.advance(embedder.start(2), ids)
    state = embedder.start(2)
    for begin, end in zip([0, *splits], [*splits, 30], strict=True):
        state = embedder.advance(state, ids[:, begin:end])
    assert torch.equal(state.recent, whole.recent)
    # a sum of 30 keys of size one, in another order.
    torch.testing.assert_close(state.decayed, whole.decayed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embedder.bundles(state), embedder.encode(ids), rtol=1e-5, atol=1e-5)


def test_a_document_starts_with_an_empty_stream() -> None:
    embedder = make_embedder()
    ids = make_ids(1, 20)
    ids[0, 13] = DOCUMENT_START
    torch.testing.assert_close(embedder.encode(ids), embedder.encode(ids[:, 13:]))


def test_the_state_has_one_size() -> None:
    embedder = make_embedder()
    state = embedder.start(1)
    sizes = set()
    for _ in range(5):
        state = embedder.advance(state, make_ids(1, 50))
        sizes.add((state.recent.shape, state.decayed.shape))
    assert sizes == {((1, 6), (1, 1, 24))}


def test_bundles_hold_the_latest_tokens_in_order() -> None:
    embedder = make_embedder(hd_dim=480, chunk=3, num_bundles=2, timescales=())
    ids = make_ids(3, 11)
    bundles = embedder.encode(ids)
    keys, _ = embedder._keys_of(ids)
    for index in range(6):
        age = 2 - index % 3
        found = bundles[:, index // 3].roll(-age, dims=-1) @ keys.T
        assert torch.equal(found.argmax(dim=-1), ids[:, 5 + index])


def test_keys_of_a_large_vocabulary_are_made_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = make_ids(2, 9)
    kept = make_embedder().encode(ids)
    monkeypatch.setattr(hypervector_stream, "MAX_KEPT_KEYS_BYTES", 0)
    # the same keys, from transforms of another batch size.
    torch.testing.assert_close(make_embedder().encode(ids), kept, rtol=1e-5, atol=1e-6)


@every_adapter
def test_a_prefix_reads_its_bundles(adapter: str) -> None:
    embedder = make_embedder(adapter=adapter)
    bundles = embedder.encode(make_ids(2, 9))
    prefix = embedder.prefix(bundles, 2)
    assert prefix.shape == (2, 3 * 3, WIDTH)
    (prefix * torch.randn(prefix.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in embedder.named_parameters():
        if "table" not in name:
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).float().mean() > 0.9, name
    empty = embedder.prefix(None, 2)
    torch.testing.assert_close(empty, embedder.slots.weight.expand(2, -1, -1))
    assert not torch.isclose(prefix, empty).any(dim=-1).all()


def test_adapters_have_the_same_number_of_parameters() -> None:
    sizes = {adapter: sum(p.numel() for p in make_embedder(adapter=adapter).parameters()) for adapter in ADAPTERS}
    assert len(set(sizes.values())) == 1, sizes


@every_adapter
def test_parallel_positions_read_their_own_token(adapter: str) -> None:
    embedder = make_embedder(adapter=adapter, mode="parallel", timescales=())
    bundles = embedder.encode(make_ids(2, 9))
    assert embedder.parallel(bundles, 6).shape == (2, 6, WIDTH)
    assert embedder.parallel(bundles[:, -1], 6).shape == (2, 6, WIDTH)
    if adapter == "unbind":
        # position 5 of 6 reads the youngest token, which stands unrolled in the last bundle.
        expected = embedder.reads[0](bundles[:, -1] * (24 / 3) ** 0.5) + embedder.queries.weight[5]  # type: ignore[union-attr]
        torch.testing.assert_close(embedder.parallel(bundles, 6)[:, 5], expected)


def test_bundles_of_another_size_are_refused() -> None:
    embedder = make_embedder()
    with pytest.raises(UserError, match=r"bundles must have model.hypervector_stream.hd_dim = 24 numbers"):
        embedder.prefix(torch.randn(2, 16), 2)
    with pytest.raises(UserError, match=r"at most 3; got shape \(2, 4, 24\)"):
        embedder.prefix(torch.randn(2, 4, 24), 2)
    with pytest.raises(UserError, match=r"mode must be parallel to predict from bundles alone; got prefix"):
        embedder.parallel(torch.randn(2, 24), 4)
    with pytest.raises(UserError, match=r"labels must fit model.seq_len in parallel mode; got 13 for 12"):
        make_embedder(mode="parallel").parallel(torch.randn(2, 24), 13)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    embedder = make_embedder()
    with pytest.raises(UserError, match=r"ids must lie between 0 and 39; got 3 to 40"):
        embedder.encode(torch.tensor([[3, 40]]))
    with pytest.raises(UserError, match=r"ids must lie between 0 and 39; got -1 to 5"):
        embedder.encode(torch.tensor([[-1, 5]]))


def test_unsolved_or_indivisible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hd_dim must be solved"):
        make_embedder(hd_dim=None)
    with pytest.raises(UserError, match=r"hd_dim must be a multiple of model.width; got 20 and 8. Try 16 or 24"):
        make_embedder(hd_dim=20)


@settings(max_examples=200, deadline=None)
@given(hd_dim=st.integers(2, 5_000), width=st.integers(2, 600))
def test_the_nearest_valid_sizes_are_named(hd_dim: int, width: int) -> None:
    config = HypervectorStreamConfig(hd_dim=hd_dim)
    if hd_dim % width == 0:
        config.check_width(width)
        return
    with pytest.raises(UserError, match=r"Try ") as caught:
        config.check_width(width)
    named = [int(word) for word in str(caught.value).rsplit("Try ", 1)[1].rstrip(".").split(" or ")]
    assert all(size % width == 0 and abs(size - hd_dim) < width for size in named)


@settings(max_examples=200, deadline=None)
@given(chunk=st.integers(1, 300), width=st.integers(2, 600))
def test_a_free_size_is_the_nearest_multiple_that_holds_a_chunk(chunk: int, width: int) -> None:
    size = HypervectorStreamConfig(chunk=chunk).fitted(width).hd_dim
    assert size is not None
    assert size % width == 0
    assert 40 * chunk <= size < 40 * chunk + width


def test_timescales_must_be_positive() -> None:
    for wrong in (0.0, -1.0, 100_001.0, 1e308):
        with pytest.raises(UserError, match=r"timescales must be positive half-lives of at most 100000 tokens; got \["):
            build_config(HypervectorStreamConfig, {"timescales": [1.0, wrong]})

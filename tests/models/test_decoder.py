"""Whole decoders over a grid of recipes: causal, splittable, rewindable, alive, and counted right."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rhapsode.config import build_config, merge
from rhapsode.errors import StateError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, DecoderState, build_decoder
from rhapsode.nn.attention import KVCache

SEQ_LEN, VOCAB = 8, 37
BASE: dict[str, Any] = {
    "embed": "table",
    "mix": "attention",
    "vocab_size": VOCAB,
    "width": 16,
    "num_layers": 2,
    "num_heads": 4,
    "seq_len": SEQ_LEN,
    "attention": {"window": 3},
}
HASHED: dict[str, Any] = {"embed": "hashed_ngrams", "hashed_ngrams": {"num_buckets": 19}}
GRID: dict[str, dict[str, Any]] = {
    "plain": {},
    "hashed": HASHED,
    "hashed, projected": merge(HASHED, {"hashed_ngrams": {"dim": 8, "orders": [4, 2]}}),
    "sliding attention, three layers": {"mix": "sliding attention", "num_layers": 3},
    "sliding, hashed, tied": {**HASHED, "mix": "sliding", "predict": "tied"},
    "gelu, layer norm": {"feed_forward": "gelu", "norm": "layer", "logit_soft_cap": 0},
    "tied, grouped heads": {"predict": "tied", "attention": {"num_kv_heads": 2, "window": 3}},
    "one key-value head, no norms": {"embed_norm": False, "attention": {"num_kv_heads": 1, "qk_norm": False}},
    "linear attention, factored": {"mix": "gla sliding", "predict": "factored", "factored": {"rank": 5}},
    "squared amplitudes": {"mix": "gla", "predict": "squared_amplitude", "factored": {"rank": 6}},
    "latent steps": {"mix": "attention sliding", "latent_steps": 3},
    "stream": {"embed": "hypervector_stream", "hypervector_stream": {"hd_dim": 48, "chunk": 1, "num_bundles": 2}},
    "stream, hashed": merge(
        HASHED,
        {
            "embed": "hypervector_stream",
            "hypervector_stream": {"tokens": "hashed_ngrams", "hd_dim": 48, "chunk": 1, "num_bundles": 2},
        },
    ),
    "stream, linear attention": {
        "embed": "hypervector_stream",
        "mix": "gla attention",
        "hypervector_stream": {"hd_dim": 48, "num_bundles": 1, "chunk": 1, "adapter": "learned", "timescales": [1.5]},
    },
    "learned": {"attention": {"positions": "learned"}},
    "learned, hashed, layer norm, gpt2": {
        **HASHED,
        "attention": {"positions": "learned", "window": 2},
        "mix": "attention sliding",
        "norm": "layer",
        "init": "gpt2",
        "feed_forward": "gelu",
        "predict": "tied",
    },
}
ROTARY = [name for name in GRID if not name.startswith("learned")]
# other splits mean other float32 kernels; logits stay below 15, and a few hundred roundings of 15 x 2^-24 walk at
# random through the layers: 20 x 15 x 2^-24 = 2e-5, five times that.
TOLERANCE = {"rtol": 0, "atol": 1e-4}

every_recipe = pytest.mark.parametrize("recipe", GRID)
every_rotary_recipe = pytest.mark.parametrize("recipe", ROTARY)


def make_config(recipe: str, **over: Any) -> ModelConfig:
    return build_config(ModelConfig, merge(merge(BASE, GRID[recipe]), over), "model")


def make_decoder(recipe: str, **over: Any) -> Decoder:
    """A decoder none of whose weights is zero: at the start every layer is the identity and would hide its errors."""
    model = build_decoder(make_config(recipe, **over), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def make_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def length_for(recipe: str) -> int:
    """Longer than the context where the model has no limit."""
    return 3 * SEQ_LEN if recipe in ROTARY else SEQ_LEN


def run(model: Decoder, ids: Tensor, splits: list[int], segments: Tensor | None = None) -> tuple[Tensor, DecoderState]:
    """Call the decoder on the pieces of `ids` between `splits`, and join the logits."""
    state, outputs = None, []
    for start, end in zip([0, *splits], [*splits, ids.shape[1]], strict=True):
        part = None if segments is None else segments[:, start:end]
        logits, state = model(ids[:, start:end], state, part)
        outputs.append(logits)
    assert state is not None
    return torch.cat(outputs, dim=1), state


def draw_splits(data: st.DataObject, length: int) -> list[int]:
    return sorted(data.draw(st.lists(st.integers(1, length - 1), unique=True, max_size=5), label="splits"))


@every_recipe
def test_logits_are_float32_and_the_state_counts(recipe: str) -> None:
    model = make_decoder(recipe)
    logits, state = model(make_ids(2, 5))
    assert (logits.shape, logits.dtype) == ((2, 5, VOCAB), torch.float32)
    assert (state.position, state.added) == (5, 5)
    _, state = model(make_ids(2, 2), state)
    assert (state.position, state.added) == (7, 2)
    cap = model.config.logit_soft_cap
    assert logits.std() > 0.3
    assert not cap or logits.abs().max() <= cap


@every_recipe
@torch.no_grad()
def test_the_future_changes_nothing(recipe: str) -> None:
    model = make_decoder(recipe)
    length = length_for(recipe)
    ids = make_ids(2, length)
    logits, _ = model(ids)
    for cut in (1, 3, length - 2):
        changed = ids.clone()
        changed[:, cut:] = (changed[:, cut:] + 1 + make_ids(2, length - cut, seed=cut) % (VOCAB - 1)) % VOCAB
        other, _ = model(changed)
        assert torch.equal(other[:, :cut], logits[:, :cut])
        assert not torch.isclose(other[:, cut], logits[:, cut]).all(dim=-1).any()


@every_recipe
@settings(max_examples=10, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_any_split_equals_one_call(recipe: str, data: st.DataObject) -> None:
    model = make_decoder(recipe)
    ids = make_ids(2, length_for(recipe), data.draw(st.integers(0, 99), label="seed"))
    whole, _ = model(ids)
    pieces, state = run(model, ids, draw_splits(data, ids.shape[1]))
    torch.testing.assert_close(pieces, whole, **TOLERANCE)
    assert state.position == ids.shape[1]


@every_recipe
@torch.no_grad()
def test_steps_equal_one_call(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(3, length_for(recipe), seed=5)
    whole, _ = model(ids)
    steps, _ = run(model, ids, list(range(1, ids.shape[1])))
    torch.testing.assert_close(steps, whole, **TOLERANCE)


@every_recipe
@settings(max_examples=10, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_after_a_rewind_the_rest_was_never_seen(recipe: str, data: st.DataObject) -> None:
    model = make_decoder(recipe)
    length = length_for(recipe)
    ids = make_ids(2, length)
    splits = draw_splits(data, length)
    begin = splits[-1] if splits else 0
    keep = data.draw(st.integers(0, length - begin - 1), label="keep")
    size = begin + keep
    rest = make_ids(2, length - size, seed=9)
    _, state = run(model, ids, splits)
    expected, expected_state = model(torch.cat([ids[:, :size], rest], dim=1))
    middle = model.rewind(state, keep + (length - size) // 2)
    for start in (model.rewind(state, keep), model.rewind(middle, keep)):
        assert start.position == size
        first, current = model(rest[:, :1], start)
        assert torch.equal(model(rest[:, :1], start)[0], first)
        logits = [first]
        if rest.shape[1] > 1:
            more, current = model(rest[:, 1:], current)
            logits.append(more)
        torch.testing.assert_close(torch.cat(logits, dim=1), expected[:, size:], **TOLERANCE)
        assert current.position == expected_state.position


SEGMENTS = torch.tensor([[0] * 3 + [1] * 5, [2] * 6 + [3] * 2])


@every_recipe
def test_nothing_passes_from_one_document_to_the_next(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(2, SEQ_LEN)
    later = SEGMENTS[:, -1:] == SEGMENTS
    changed = torch.where(later, ids, (ids + 1 + make_ids(2, SEQ_LEN, seed=1) % (VOCAB - 1)) % VOCAB)
    with torch.no_grad():
        logits, _ = model(ids, segments=SEGMENTS)
        other, _ = model(changed, segments=SEGMENTS)
        assert torch.equal(other[later], logits[later])
        # without the numbers they do differ, right after the boundary.
        first = later & ~later.roll(1, dims=1)
        assert not torch.isclose(model(ids)[0][first], model(changed)[0][first]).all(dim=-1).any()
    # an id that only the first document holds gets no gradient from the second.
    only = make_ids(2, SEQ_LEN) % (VOCAB - 1)
    only = torch.where(later, only, VOCAB - 1)
    hidden, _ = model.hidden(only, segments=SEGMENTS)
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((hidden * weight)[later].sum(), [model.embedder.table.weight])
    assert (gradient[VOCAB - 1] == 0).all()
    assert (gradient[only[later]] != 0).any(dim=-1).all()


@every_rotary_recipe
@torch.no_grad()
def test_a_document_in_company_equals_one_alone(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(1, 2 * SEQ_LEN)
    segments = (torch.arange(2 * SEQ_LEN) >= 5).long()[None] + 3
    logits, _ = model(ids, segments=segments)
    torch.testing.assert_close(logits[:, :5], model(ids[:, :5])[0], **TOLERANCE)
    # bundles stand in front of the first document only, and are of its past.
    if not model.prefix_len:
        torch.testing.assert_close(logits[:, 5:], model(ids[:, 5:])[0], **TOLERANCE)


@every_recipe
@torch.no_grad()
def test_any_split_of_documents_equals_one_call(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(2, SEQ_LEN)
    whole, _ = model(ids, segments=SEGMENTS)
    for splits in ([2], [3], [1, 4], [7]):
        pieces, _ = run(model, ids, splits, SEGMENTS)
        torch.testing.assert_close(pieces, whole, **TOLERANCE)


def test_segments_in_only_some_calls_are_refused() -> None:
    model = make_decoder(next(iter(GRID)))
    ids = make_ids(2, SEQ_LEN)
    _, state = model(ids)
    with pytest.raises(StateError, match="segments must be given in every call"):
        model(ids, state, SEGMENTS)


@every_recipe
@pytest.mark.parametrize("chunk_size", [0, 5])
def test_loss_is_minus_the_log_probability_and_every_parameter_gets_gradient(recipe: str, chunk_size: int) -> None:
    model = make_decoder(recipe)
    ids, targets = make_ids(8, SEQ_LEN), make_ids(8, SEQ_LEN, seed=1)
    bundles = model.encode_past(make_ids(8, 5, seed=2), ids, targets)
    losses = model.loss(ids, targets, chunk_size=chunk_size, bundles=bundles)
    assert (losses.shape, losses.dtype) == ((8, SEQ_LEN), torch.float32)
    with torch.no_grad():
        expected = -torch.log_softmax(model(ids, bundles=bundles)[0].double(), dim=-1).gather(-1, targets[..., None])[
            ..., 0
        ]
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    losses.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # rows of a table that no id and no n-gram of the batch names get none.
        assert (parameter.grad != 0).float().mean() > 0.4, name


@every_recipe
@torch.no_grad()
def test_loss_isolates_documents(recipe: str) -> None:
    model = make_decoder(recipe)
    ids, targets = make_ids(2, SEQ_LEN), make_ids(2, SEQ_LEN, seed=1)
    logits, _ = model(ids, segments=SEGMENTS)
    expected = -torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]
    losses = model.loss(ids, targets, SEGMENTS)
    torch.testing.assert_close(losses, expected)
    assert not torch.isclose(losses, model.loss(ids, targets)).all()


@every_recipe
@torch.no_grad()
def test_rows_of_a_batch_are_independent(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(3, SEQ_LEN)
    changed = ids.clone()
    changed[1] = make_ids(1, SEQ_LEN, seed=7)
    logits, other = model(ids)[0], model(changed)[0]
    assert torch.equal(logits[[0, 2]], other[[0, 2]])
    assert not torch.isclose(logits[1], other[1]).all()
    torch.testing.assert_close(model(ids[1:2])[0], logits[1:2], **TOLERANCE)


@every_recipe
@torch.no_grad()
def test_bfloat16_is_close_to_float32(recipe: str) -> None:
    model = make_decoder(recipe)
    ids = make_ids(4, SEQ_LEN)
    exact, _ = model(ids)
    model.compute_dtype = torch.bfloat16
    rounded, state = model(ids)
    assert rounded.dtype == torch.float32
    assert model.hidden(ids)[0].dtype == torch.bfloat16
    if isinstance(state.mixers[0], KVCache):
        assert state.mixers[0].keys.dtype == torch.bfloat16
    # every operation rounds to 2^-9 of its result; some dozen in a row per layer, in three layers and the head, walk
    # at random: 2^-9 x sqrt(40) = 0.012 of the size of the logits, and a softmax over them may double it.
    error = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < 0.025


@every_recipe
def test_parameters_are_counted_once(recipe: str) -> None:
    config = make_config(recipe)
    model = Decoder(config)
    width, hashed = 16, config.hashed_ngrams
    head_dim = width // 4
    kv_heads = config.attention.num_kv_heads or 4
    norm = 2 * width if config.norm == "layer" else 0
    count = VOCAB * width
    if config.token_embedder == "hashed_ngrams":
        dim = hashed.dim or width
        count += len(hashed.orders) * (19 * dim + (dim * width if hashed.dim else 0))
    if config.attention.positions == "learned":
        count += SEQ_LEN * width
    if config.embed == "hypervector_stream":
        stream = config.hypervector_stream
        hd_dim = stream.hd_dim or 0
        count += hd_dim * width + (stream.num_bundles + len(stream.timescales)) * hd_dim
    count += norm * config.embed_norm
    attention = width * (width + 2 * kv_heads * head_dim) + width * width
    # two halves for keys, two wholes for values and gate, decays of rank 16 and their bias, the output.
    linear = width * (2 * width // 2 + 2 * width + 16) + 16 * width // 2 + width // 2 + width * width
    for layer in range((config.num_layers or 0) + (config.latent_steps > 0)):
        count += linear if config.mixer_of(layer) == "gla" else attention
        count += 2 * width * 4 * width + 2 * norm
    count += norm
    if config.predict in {"factored", "squared_amplitude"}:
        count += (width + VOCAB) * config.factored.rank
    elif config.predict == "untied":
        count += VOCAB * width
    assert model.num_parameters() == count
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count


def test_a_tied_head_follows_the_table() -> None:
    model = make_decoder("tied, grouped heads")
    hidden = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.logits(hidden)
        model.embedder.table.weight[5] += 1
        changed = (model.logits(hidden) != before).all(dim=(0, 1))
    assert changed.nonzero().flatten().tolist() == [5]


def test_a_tied_head_trains_the_table() -> None:
    model = make_decoder("tied, grouped heads")
    hidden = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(model.logits(hidden).square().sum(), [model.embedder.table.weight])
    assert (gradient != 0).all()


@torch.no_grad()
def test_the_cap_bounds_logits_smoothly() -> None:
    capped, free = make_decoder("plain", logit_soft_cap=2.5), make_decoder("plain", logit_soft_cap=0)
    logits, raw = capped(make_ids(2, 5))[0], free(make_ids(2, 5))[0]
    assert raw.abs().max() > 2.5
    torch.testing.assert_close(logits, 2.5 * torch.tanh(raw / 2.5))


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_normalised_queries_and_keys_have_no_size(qk_norm: bool) -> None:
    model = make_decoder("plain", attention={"qk_norm": qk_norm})
    ids = make_ids(2, SEQ_LEN)
    before, _ = model(ids)
    for block in model.blocks:
        block.mixer.qkv.weight[:32] *= 3  # 16 rows of queries and 16 of keys.
    after, _ = model(ids)
    assert torch.isclose(before, after, atol=1e-3).all() == qk_norm


@every_recipe
def test_weights_survive_saving_and_one_seed_gives_one_model(recipe: str) -> None:
    models = [build_decoder(make_config(recipe), seed) for seed in (4, 4, 5)]
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    perturbed = make_decoder(recipe)
    models[0].load_state_dict(perturbed.state_dict())
    with torch.no_grad():
        assert torch.equal(models[0](make_ids(2, 5))[0], perturbed(make_ids(2, 5))[0])


@every_recipe
@torch.no_grad()
def test_every_weight_is_initialised(recipe: str) -> None:
    config = make_config(recipe)
    model = Decoder(config)
    for parameter in model.parameters():
        parameter.fill_(math.nan)
    model.init_weights(torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    last = [
        module.weight for name, module in model.named_modules() if name.endswith(("mixer.out", "feed_forward.down"))
    ]
    assert len(last) == 2 * len(model.blocks)
    assert all((weight == 0).all() == (config.init == "zero_outputs") for weight in last)
    if config.init == "zero_outputs" and config.predict == "untied":
        torch.testing.assert_close(
            model.loss(make_ids(2, 5), make_ids(2, 5)), torch.full((2, 5), math.log(VOCAB)), rtol=1e-6, atol=0
        )


@torch.no_grad()
def test_deviations_of_the_initial_weights() -> None:
    over = {"width": 64, "num_layers": 2, "vocab_size": 500, "num_heads": 4}

    def deviation(module: nn.Module) -> float:
        return module.weight.std().item()

    # 4000 draws or more: the deviation is known to 1 / sqrt(2 x 4000) = 1.1 %, and 5 % is over four times that.
    model = build_decoder(make_config("plain", **over), 0)
    assert deviation(model.embedder.table) == pytest.approx(1, rel=0.05)
    assert deviation(model.blocks[0].mixer.qkv) == pytest.approx(64**-0.5, rel=0.05)
    assert deviation(model.blocks[1].feed_forward.up) == pytest.approx(64**-0.5, rel=0.05)
    assert deviation(build_decoder(make_config("plain", predict="tied", **over), 0).embedder.table) == pytest.approx(
        0.02, rel=0.05
    )
    model = build_decoder(make_config("plain", init="gpt2", **over), 0)
    assert deviation(model.embedder.table) == pytest.approx(0.02, rel=0.05)
    assert deviation(model.blocks[0].mixer.qkv) == pytest.approx(0.02, rel=0.05)
    assert deviation(model.blocks[0].mixer.out) == pytest.approx(0.01, rel=0.05)
    assert deviation(model.head.linear) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("recipe", [name for name in GRID if name not in ROTARY])
def test_learned_positions_end(recipe: str) -> None:
    model = make_decoder(recipe)
    _, state = model(make_ids(2, SEQ_LEN - 1))
    message = (
        r"^a sequence must fit model\.seq_len with learned positions; got {} ids for 8\. Shorten it or use a recipe"
    )
    with pytest.raises(StateError, match=message.format(9)):
        model(make_ids(2, SEQ_LEN + 1))
    with pytest.raises(StateError, match=message.format(10)):
        model(make_ids(2, 3), state)
    model(make_ids(2, 1), state)


@pytest.mark.parametrize("name", ["vocab_size", "width", "num_layers", "num_heads"])
def test_unsolved_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name} must be solved before the model is built\.$"):
        Decoder(make_config("plain", **{name: None}))


def test_unsolved_buckets() -> None:
    config = make_config("hashed", hashed_ngrams={"num_buckets": None})
    with pytest.raises(
        ValueError, match=r"^model\.hashed_ngrams\.num_buckets must be solved before the model is built"
    ):
        Decoder(config)


@torch.no_grad()
def test_the_two_positions_and_the_window_matter() -> None:
    ids = make_ids(2, SEQ_LEN)
    swapped = ids[:, [1, 0, *range(2, SEQ_LEN)]]
    for recipe in ("plain", "learned"):
        model = make_decoder(recipe, num_layers=1)
        assert not torch.isclose(model(ids)[0][:, -1], model(swapped)[0][:, -1], atol=1e-4).all()
    # one layer with a window of three does not see the first id from the last position.
    model = make_decoder("plain", num_layers=1, mix="sliding")
    assert torch.equal(model(ids)[0][:, 4:], model(swapped)[0][:, 4:])

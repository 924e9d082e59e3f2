"""Every registered mixer, those of other packages included, against its contract in `nn/contracts.py`."""

from dataclasses import fields, is_dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rhapsode.nn.config import MIXERS, AttentionConfig
from rhapsode.nn.contracts import Mixer

WIDTH, HEADS, SEQ_LEN = 24, 4, 7
SETTINGS = {
    "plain": AttentionConfig(window=3),
    "grouped heads": AttentionConfig(window=3, num_kv_heads=2),
    "learned positions, raw products": AttentionConfig(window=2, positions="learned", qk_norm=False),
    "window of one": AttentionConfig(window=1, num_kv_heads=1),
}
# linear attention has no window, no positions and no groups: one case says it all.
CASES = [(name, config) for name in MIXERS.names() for config in SETTINGS if name != "gla" or config == "plain"]
# another split means other float32 kernels: sums of some 30 terms of size one, 30 x 2^-24, through three layers.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

every_mixer = pytest.mark.parametrize(("name", "config"), CASES)


def make_mixer(name: str, config: str) -> nn.Module:
    mixer: nn.Module = MIXERS.load(name)(WIDTH, HEADS, SEQ_LEN, SETTINGS[config])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    return mixer


def make_input(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def make_segments(batch: int, length: int, seed: int = 0) -> Tensor:
    """Documents of random lengths, others in every row, with numbers that grow."""
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.2
    return starts.long().cumsum(dim=1)


def run(mixer: nn.Module, x: Tensor, splits: list[int], segments: Tensor | None = None) -> tuple[Tensor, object]:
    """Call the mixer on the pieces of `x` between `splits`, and join the outputs."""
    state, outputs = None, []
    for start, end in zip([0, *splits], [*splits, x.shape[1]], strict=True):
        part = None if segments is None else segments[:, start:end]
        y, state = mixer(x[:, start:end], state, positions=torch.arange(start, end), segments=part)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def tensors_in(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if is_dataclass(state):
        return [tensor for field in fields(state) for tensor in tensors_in(getattr(state, field.name))]
    if isinstance(state, dict):
        return [tensor for part in state.values() for tensor in tensors_in(part)]
    if isinstance(state, tuple | list):
        return [tensor for part in state for tensor in tensors_in(part)]
    return []


split_points = st.lists(st.integers(1, 22), unique=True, max_size=6).map(sorted)


@every_mixer
def test_is_a_mixer(name: str, config: str) -> None:
    mixer = make_mixer(name, config)
    assert isinstance(mixer, Mixer)
    for dtype in (torch.float32, torch.bfloat16):
        y, state = mixer(make_input(2, 5).to(dtype), positions=torch.arange(5))
        assert (y.shape, y.dtype) == ((2, 5, WIDTH), dtype)
        y, _ = mixer(make_input(2, 1).to(dtype), state, positions=torch.tensor([5]))
        assert (y.shape, y.dtype) == ((2, 1, WIDTH), dtype)


@every_mixer
@pytest.mark.parametrize("with_segments", [False, True])
def test_the_future_changes_nothing(name: str, config: str, with_segments: bool) -> None:
    mixer = make_mixer(name, config)
    x = make_input(2, 19)
    segments = make_segments(2, 19) if with_segments else None
    y, _ = run(mixer, x, [], segments)
    for cut in (1, 6, 13, 18):
        changed = torch.cat([x[:, :cut], make_input(2, 19 - cut, seed=cut)], dim=1)
        other, _ = run(mixer, changed, [], segments)
        assert torch.equal(other[:, :cut], y[:, :cut])
        assert not torch.isclose(other[:, cut], y[:, cut]).any(dim=-1).all()


@every_mixer
@settings(max_examples=20, deadline=None)
@given(splits=split_points, seed=st.one_of(st.none(), st.integers(0, 99)))
def test_any_split_gives_the_same(name: str, config: str, splits: list[int], seed: int | None) -> None:
    mixer = make_mixer(name, config)
    x = make_input(2, 23).requires_grad_()
    segments = None if seed is None else make_segments(2, 23, seed)
    weight = make_input(2, 23, seed=1)
    results = []
    for points in ([], splits):
        y, _ = run(mixer, x, points, segments)
        results.append((y, *torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])))
    for whole, pieces in zip(*results, strict=True):
        # a weight's gradient sums 46 positions, some of them larger than one.
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0][0], results[1][0], **TOLERANCE)


@every_mixer
@pytest.mark.parametrize("with_segments", [False, True])
def test_steps_equal_one_call(name: str, config: str, with_segments: bool) -> None:
    mixer = make_mixer(name, config)
    x = make_input(3, 4 * SEQ_LEN)
    segments = make_segments(3, 4 * SEQ_LEN) if with_segments else None
    whole, _ = run(mixer, x, [], segments)
    steps, _ = run(mixer, x, list(range(1, 4 * SEQ_LEN)), segments)
    torch.testing.assert_close(steps, whole, **TOLERANCE)


@every_mixer
@pytest.mark.parametrize("splits", [[], [4, 9], [11]])
def test_nothing_passes_from_one_document_to_the_next(name: str, config: str, splits: list[int]) -> None:
    mixer = make_mixer(name, config)
    segments = torch.tensor([[0] * 8 + [1] * 6, [5] * 11 + [7] * 3])
    later = segments == segments[:, -1:]
    x = make_input(2, 14).requires_grad_()
    y, _ = run(mixer, x, splits, segments)
    changed = torch.where(later[..., None], x, make_input(2, 14, seed=1))
    other, _ = run(mixer, changed, splits, segments)
    assert torch.equal(other[later], y[later])
    assert not torch.isclose(other[~later], y[~later]).all()
    (gradient,) = torch.autograd.grad((y[later] * make_input(2, 14, seed=2)[later]).sum(), x)
    assert (gradient[~later] == 0).all()
    assert (gradient[later] != 0).any(dim=-1).all()


@every_mixer
def test_a_document_in_company_equals_one_alone(name: str, config: str) -> None:
    mixer = make_mixer(name, config)
    x = make_input(1, 2 * SEQ_LEN)
    segments = torch.arange(2 * SEQ_LEN)[None] // SEQ_LEN
    y, _ = run(mixer, x, [], segments)
    for start in (0, SEQ_LEN):
        alone, _ = run(mixer, x[:, start : start + SEQ_LEN], [])
        torch.testing.assert_close(y[:, start : start + SEQ_LEN], alone, **TOLERANCE)


@every_mixer
@settings(max_examples=25, deadline=None)
@given(data=st.data(), splits=split_points, seed=st.one_of(st.none(), st.integers(0, 99)))
def test_after_a_rewind_the_rest_was_never_seen(
    name: str, config: str, data: st.DataObject, splits: list[int], seed: int | None
) -> None:
    mixer = make_mixer(name, config)
    length, begin = 23, splits[-1] if splits else 0
    keep = data.draw(st.integers(0, length - begin), label="keep")
    size = begin + keep
    rest = make_input(2, 6, seed=4)
    segments = None if seed is None else make_segments(2, size + 6, seed)
    seen = (
        None if segments is None else torch.cat([segments[:, :size], 9 - segments[:, :1].expand(2, length - size)], 1)
    )
    x = make_input(2, length)
    with torch.no_grad():
        _, state = run(mixer, x, splits, seen)
        before = [tensor.clone() for tensor in tensors_in(state)]
        rewound = mixer.rewind(state, keep)
        twice = mixer.rewind(mixer.rewind(state, keep + (length - size) // 2), keep)
        expected, _ = run(mixer, torch.cat([x[:, :size], rest], dim=1), [], segments)
        for start in (rewound, rewound, twice):
            outputs, current = [], start
            for step in ([0, 1], [2], [3, 4, 5]):
                part = None if segments is None else segments[:, [size + i for i in step]]
                y, current = mixer(rest[:, step], current, positions=size + torch.tensor(step), segments=part)
                outputs.append(y)
            torch.testing.assert_close(torch.cat(outputs, dim=1), expected[:, size:], **TOLERANCE)
    # a state is never changed in place.
    assert all(torch.equal(old, new) for old, new in zip(before, tensors_in(state), strict=True))


@every_mixer
def test_several_continuations_share_a_state(name: str, config: str) -> None:
    mixer = make_mixer(name, config)
    _, state = run(mixer, make_input(2, 9), [4])
    positions = torch.arange(9, 12)
    first, _ = mixer(make_input(2, 3, seed=1), state, positions=positions)
    mixer(make_input(2, 3, seed=2), state, positions=positions)
    again, _ = mixer(make_input(2, 3, seed=1), state, positions=positions)
    assert torch.equal(first, again)


@every_mixer
def test_the_state_stops_growing(name: str, config: str) -> None:
    mixer = make_mixer(name, config)
    sizes = []
    with torch.no_grad():
        for length in (3 * SEQ_LEN, 5 * SEQ_LEN):
            _, state = run(mixer, make_input(1, length), list(range(1, length)))
            sizes.append(sum(tensor.numel() for tensor in tensors_in(state)))
    assert sizes[0] == sizes[1] > 0


# a window of one sees itself with weight 1, whatever the queries and keys are.
@pytest.mark.parametrize(("name", "config"), [case for case in CASES if case[1] != "window of one"])
@pytest.mark.parametrize("splits", [[], [1, 5]])
def test_every_parameter_gets_gradient(name: str, config: str, splits: list[int]) -> None:
    mixer = make_mixer(name, config)
    y, _ = run(mixer, make_input(2, 13), splits)
    (y * make_input(2, 13, seed=1)).sum().backward()
    for label, parameter in mixer.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label
        assert (parameter.grad != 0).float().mean() > 0.9, label


@every_mixer
def test_rows_of_a_batch_are_independent(name: str, config: str) -> None:
    mixer = make_mixer(name, config)
    x, segments = make_input(3, 11), make_segments(3, 11)
    y, _ = run(mixer, x, [6], segments)
    changed = x.clone()
    changed[1] = make_input(1, 11, seed=1)
    other_segments = segments.clone()
    other_segments[1] = make_segments(1, 11, seed=5)
    other, _ = run(mixer, changed, [6], other_segments)
    assert torch.equal(other[[0, 2]], y[[0, 2]])
    assert not torch.isclose(other[1], y[1]).all()
    alone, _ = run(mixer, x[1:2], [6], segments[1:2])
    torch.testing.assert_close(alone, y[1:2], **TOLERANCE)

"""Batches are a pure function of seed and index, and every token is a target as often as it should be."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.errors import UserError
from rhapsode.text.batches import Batch, WindowSampler, sliding_windows
from rhapsode.text.shards import TokenArray, load_token_array, save_token_array


def make_tokens(num_ids: int, num_documents: int = 1, seed: int = 0) -> TokenArray:
    """Ids that name their own position, so that a test can see where a window came from."""
    rng = np.random.default_rng(seed)
    starts = rng.choice(np.arange(1, num_ids), min(num_documents, num_ids) - 1, replace=False)
    doc_starts = np.sort(np.append(starts, 0)).astype(np.int64)
    return TokenArray(np.arange(num_ids, dtype=np.uint32), doc_starts, num_ids)


def plain_segments(tokens: TokenArray, batch: Batch) -> list[list[int]]:
    starts = set(tokens.doc_starts.tolist())
    rows = []
    for row in batch.inputs.tolist():
        segment, numbers = 0, []
        for column, position in enumerate(row):
            segment += column > 0 and position in starts
            numbers.append(segment)
        rows.append(numbers)
    return rows


@given(st.integers(2, 300), st.integers(1, 20), st.integers(1, 9), st.integers(0, 5), st.integers(0, 60))
def test_windows_are_stretches_of_the_text(num_ids: int, seq_len: int, batch_size: int, seed: int, index: int) -> None:
    seq_len = min(seq_len, num_ids - 1)
    tokens = make_tokens(num_ids, 12)
    batch = WindowSampler(tokens, seq_len, batch_size, seed).batch(index)
    assert batch.inputs.shape == batch.targets.shape == (batch_size, seq_len)
    assert batch.inputs.dtype == batch.targets.dtype == np.int64
    assert np.array_equal(batch.inputs, batch.inputs[:, :1] + np.arange(seq_len))
    assert np.array_equal(batch.targets, batch.inputs + 1)
    assert batch.segments.dtype == np.int32
    assert batch.segments.tolist() == plain_segments(tokens, batch)


@given(st.integers(2, 300), st.integers(1, 20), st.integers(1, 9), st.integers(0, 5))
def test_every_token_is_a_target_once_an_epoch(num_ids: int, seq_len: int, batch_size: int, seed: int) -> None:
    seq_len = min(seq_len, num_ids - 1)
    sampler = WindowSampler(make_tokens(num_ids), seq_len, batch_size, seed)
    windows = sampler.num_windows
    rows = [row for index in range(-(-3 * windows // batch_size)) for row in sampler.batch(index).targets]
    for epoch in range(3):
        targets = np.sort(np.concatenate(rows[epoch * windows : (epoch + 1) * windows]))
        assert np.array_equal(targets, targets[0] + np.arange(len(targets)))
        assert targets[0] <= seq_len
        assert num_ids - 1 - targets[-1] <= 2 * seq_len - 1


def test_a_batch_is_a_pure_function_of_seed_and_index() -> None:
    tokens = make_tokens(5_000)
    sampler = WindowSampler(tokens, 16, 8, seed=3)
    first = [sampler.batch(index).inputs for index in range(120)]
    assert sampler.num_batches_per_epoch == 39
    for index in (119, 0, 77, 38, 39, 5):
        assert np.array_equal(sampler.batch(index).inputs, first[index])
        assert np.array_equal(WindowSampler(tokens, 16, 8, seed=3).batch(index).inputs, first[index])
    assert not np.array_equal(WindowSampler(tokens, 16, 8, seed=4).batch(0).inputs, first[0])


def test_epochs_differ_in_order_and_phase() -> None:
    sampler = WindowSampler(make_tokens(5_000), 16, sampler_size := 311, seed=0)
    assert sampler.num_windows == sampler_size
    epochs = [sampler.batch(index).inputs[:, 0] for index in range(20)]
    assert len({int(epoch[0]) % 16 for epoch in epochs}) > 8
    assert all(np.unique(epoch % 16).size == 1 for epoch in epochs)
    orders = {tuple((epoch // 16).tolist()) for epoch in epochs}
    assert len(orders) == 20


def test_a_batch_larger_than_an_epoch() -> None:
    sampler = WindowSampler(make_tokens(9), 8, 32, seed=0)
    assert (sampler.num_windows, sampler.num_batches_per_epoch) == (1, 1)
    assert np.array_equal(sampler.batch(2).inputs, np.tile(np.arange(8), (32, 1)))


def test_reading_from_disk_is_the_same(tmp_path: Path) -> None:
    tokens = make_tokens(3_000, 40)
    save_token_array(tmp_path, tokens)
    on_disk = WindowSampler(load_token_array(tmp_path), 32, 4, 0).batch(7)
    in_memory = WindowSampler(tokens, 32, 4, 0).batch(7)
    assert np.array_equal(on_disk.inputs, in_memory.inputs)
    assert np.array_equal(on_disk.segments, in_memory.segments)


def test_a_batch_is_fast() -> None:
    sampler = WindowSampler(make_tokens(2_000_000, 4_000), 128, 32, seed=0)
    sampler.batch(0)
    times = []
    for index in range(1, 100):
        begin = time.perf_counter()
        sampler.batch(index)
        times.append(time.perf_counter() - begin)
    # measured 0.03 ms; the bound is what training can afford, and the median forgives a busy machine.
    assert np.median(times) < 1e-3


def test_too_little_text_for_a_window() -> None:
    message = "--seq-len must leave room for one window of 129 tokens; got seq_len 128 and 100 tokens.*Try --seq-len 49"
    with pytest.raises(UserError, match=message):
        WindowSampler(make_tokens(100), 128, 4, 0)


@pytest.mark.parametrize(
    ("seq_len", "batch_size", "seed", "message"),
    [
        (0, 4, 0, "--seq-len must be at least 1; got 0"),
        (4, 0, 0, "--batch-size must be at least 1; got 0"),
        (4, 4, -1, "--seed must be at least 0; got -1"),
    ],
)
def test_sizes_are_checked(seq_len: int, batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WindowSampler(make_tokens(100), seq_len, batch_size, seed)


def test_an_index_is_not_negative() -> None:
    with pytest.raises(UserError, match="the index of a batch must be at least 0; got -1"):
        WindowSampler(make_tokens(100), 4, 4, 0).batch(-1)


@given(st.integers(2, 200), st.integers(1, 24), st.integers(1, 24), st.integers(1, 5))
def test_sliding_windows_score_every_token_once(num_ids: int, seq_len: int, stride: int, batch_size: int) -> None:
    stride = min(stride, seq_len)
    scored: list[int] = []
    batches = list(sliding_windows(make_tokens(num_ids), seq_len, stride, batch_size))
    for inputs, targets, mask in batches:
        assert inputs.shape == targets.shape == mask.shape == (batch_size, seq_len)
        assert np.array_equal(targets[mask], inputs[mask] + 1)
        for row in range(batch_size):
            for column in np.flatnonzero(mask[row]).tolist():
                position = int(targets[row, column])
                scored.append(position)
                # all that stands before it in the window is true context, and there is enough of it.
                context = inputs[row, : column + 1]
                assert np.array_equal(context, np.arange(position - column - 1, position))
                assert len(context) >= min(seq_len - stride + 1, position)
    assert scored == list(range(1, num_ids))
    assert batches[-1][2].any()


def test_sliding_windows_errors() -> None:
    tokens = make_tokens(50)
    with pytest.raises(UserError, match=r"--stride must lie between 1 and seq_len; got 9 and 8\. Try 4"):
        sliding_windows(tokens, 8, 9, 2)
    with pytest.raises(UserError, match="--stride must lie between 1 and seq_len; got 0 and 8"):
        sliding_windows(tokens, 8, 0, 2)
    with pytest.raises(UserError, match="--seq-len must be at least 1; got 0"):
        sliding_windows(tokens, 0, 1, 2)
    with pytest.raises(UserError, match="--batch-size must be at least 1; got 0"):
        sliding_windows(tokens, 8, 4, 0)
    with pytest.raises(UserError, match="text must hold at least 2 tokens to be scored; got 1"):
        sliding_windows(make_tokens(1), 8, 4, 2)

"""The rules of splitting: sizes come out right, no part is empty, and only contents and seed matter."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.text.assignment import PARTS, assign_by_hash, position_bounds


def make_digests(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


@given(st.lists(st.integers(1, 10**9), min_size=3, max_size=40), st.floats(0.001, 0.9), st.integers(0, 99))
def test_no_part_is_empty(sizes: list[int], val_split: float, seed: int) -> None:
    parts = assign_by_hash(make_digests(len(sizes), seed), np.array(sizes), (val_split, 0.02), seed)
    assert set(parts.tolist()) == {0, 1, 2}


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=40))
def test_without_validation_two_parts_are_filled(sizes: list[int]) -> None:
    parts = assign_by_hash(make_digests(len(sizes)), np.array(sizes), (0.0, 0.02), 0)
    assert set(parts.tolist()) == {0, 2}


def test_sizes_are_as_asked() -> None:
    sizes = np.random.default_rng(1).integers(1, 20_000, 3_000)
    parts = assign_by_hash(make_digests(3_000), sizes, (0.1, 0.02), 0)
    # the middle rule is off by at most half a document at each end.
    slack = 20_000 / sizes.sum()
    for part, wanted in ((0, 0.88), (1, 0.1), (2, 0.02)):
        assert abs(sizes[parts == part].sum() / sizes.sum() - wanted) <= slack


def test_order_does_not_matter_and_the_seed_does() -> None:
    digests, sizes = make_digests(200), np.random.default_rng(2).integers(1, 100, 200)
    parts = assign_by_hash(digests, sizes, (0.1, 0.02), 7)
    shuffled = np.random.default_rng(3).permutation(200)
    assert np.array_equal(assign_by_hash(digests[shuffled], sizes[shuffled], (0.1, 0.02), 7), parts[shuffled])
    assert not np.array_equal(assign_by_hash(digests, sizes, (0.1, 0.02), 8), parts)


def test_a_giant_document_stays_in_train() -> None:
    for seed in range(20):
        parts = assign_by_hash(make_digests(10), np.array([10**9] + [100] * 9), (0.1, 0.02), seed)
        assert parts[0] == 0


@given(st.integers(3, 10**7), st.floats(0.0, 0.9))
def test_positions_tile_the_document(num_chars: int, val_split: float) -> None:
    bounds = position_bounds(num_chars, (val_split, 0.02))
    (start, a), (b, c), (d, stop) = bounds["calibration"], bounds["train"], bounds["validation"]
    assert (start, a, c, stop) == (0, b, d, num_chars)
    assert 0 < a < c
    assert (d < stop) == (val_split > 0)


def test_positions_are_nanogpts() -> None:
    for num_chars in [1_115_394, *range(50, 2_000, 7)]:
        bounds = position_bounds(num_chars, (0.1, 0.02))
        assert bounds["validation"] == (int(num_chars * 0.9), num_chars)
        assert bounds["calibration"] == (0, int(num_chars * 0.02))
    assert tuple(bounds) == PARTS

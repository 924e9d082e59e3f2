"""The tensor form of the n-gram hash against plain Python."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.ops.ngram_hash import hash_ngram_plain, hash_ngrams

# the largest id makes the products inside the hash as large as they can get.
ids = st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=12)


@settings(deadline=None)
@given(rows=st.lists(ids, min_size=1, max_size=3), order=st.integers(1, 6), num_buckets=st.integers(1, 2**31))
def test_buckets_equal_the_plain_hash(rows: list[list[int]], order: int, num_buckets: int) -> None:
    length = min(len(row) for row in rows)
    if length < order:
        return
    rows = [row[:length] for row in rows]
    expected = [
        [hash_ngram_plain(row[start : start + order], num_buckets) for start in range(length - order + 1)]
        for row in rows
    ]
    assert hash_ngrams(torch.tensor(rows), order, num_buckets).tolist() == expected


def test_input_is_unchanged() -> None:
    rows = torch.randint(0, 500, (3, 17), generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    hash_ngrams(rows, 3, 11)
    assert torch.equal(rows, before)


def test_buckets_fill_evenly() -> None:
    # 200 x 200 bigrams in 64 buckets: chi^2 has 63 degrees of freedom, so 63 + 5 sqrt(2 x 63) is five deviations.
    first, second = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    bigrams = torch.stack([first.flatten(), second.flatten()], dim=1)
    counts = torch.bincount(hash_ngrams(bigrams, 2, 64).flatten(), minlength=64).double()
    expected = bigrams.shape[0] / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * (2 * 63) ** 0.5


def test_order_of_the_ids_and_length_count() -> None:
    buckets = {hash_ngram_plain(gram, 2**31 - 1) for gram in ([1, 2], [2, 1], [0, 1, 2], [1, 2, 0], [3], [0, 3])}
    assert len(buckets) == 6

"""Integer counts against counting by hand, and the sorted tables they are kept in."""

from collections import Counter

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.memory.ngram_counts import ROOT, NgramLevel, check_ids, count_ngrams, sort_with_order


def spell(levels: tuple[NgramLevel, ...], length: int, node: int) -> tuple[int, ...]:
    """The ids of the n-gram of `length` at `node`."""
    gram: list[int] = []
    for level in reversed(levels[:length]):
        node, token = divmod(int(level.keys[node]), level.vocab_size)
        gram.insert(0, token)
    assert node == ROOT
    return tuple(gram)


@pytest.mark.parametrize(
    ("num_ids", "vocab_size", "order"), [(1, 1, 1), (1, 4, 3), (3, 2, 5), (200, 3, 4), (301, 17, 6)]
)
def test_counts_equal_counting_by_hand(num_ids: int, vocab_size: int, order: int) -> None:
    ids = np.random.default_rng(num_ids).integers(0, vocab_size, size=num_ids)
    levels = count_ngrams(ids, vocab_size, order)
    assert len(levels) == min(order, num_ids)
    for length, level in enumerate(levels, start=1):
        grams = [tuple(ids[i : i + length].tolist()) for i in range(num_ids - length + 1)]
        lefts = {(int(ids[i - 1]) if i else None, gram) for i, gram in enumerate(grams)}
        expected = Counter(grams) if length == order else Counter(gram for _, gram in lefts)
        counted = {spell(levels, length, node): int(count) for node, count in enumerate(level.counts)}
        assert counted == dict(expected)
        assert (np.diff(level.keys) > 0).all()


def test_find_child_and_children_agree() -> None:
    rng = np.random.default_rng(0)
    levels = count_ngrams(rng.integers(0, 30, size=2000), 40, 3)
    level = levels[2]
    prefixes = rng.integers(0, len(levels[1].keys), size=500)
    tokens = rng.integers(0, 40, size=500)
    found = level.find(prefixes, tokens)
    assert 0 < (found >= 0).sum() < 500
    for prefix, token, node in zip(prefixes.tolist(), tokens.tolist(), found.tolist(), strict=True):
        assert level.child(prefix, token) == node
        rows = level.children(prefix)
        children = (level.keys[rows] - prefix * 40).tolist()
        assert (token in children) == (node >= 0)
        assert (level.prefixes()[rows] == prefix).all()
    assert level.child(len(levels[1].keys), 39) == -1


@pytest.mark.parametrize("top", [2**20, 2**62], ids=["packed", "too wide to pack"])
def test_sort_with_order_equals_argsort(top: int) -> None:
    rng = np.random.default_rng(1)
    keys = rng.choice(rng.integers(0, top, size=700), size=3001)
    before = keys.copy()
    ordered, order = sort_with_order(keys)
    np.testing.assert_array_equal(keys, before)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(ordered, keys[order])


@pytest.mark.parametrize("num_keys", [0, 1, 2])
def test_sort_with_order_of_few_keys(num_keys: int) -> None:
    ordered, order = sort_with_order(np.array([9, 4][:num_keys], dtype=np.int64))
    assert ordered.tolist() == sorted([9, 4][:num_keys])
    assert order.tolist() == [[], [0], [1, 0]][num_keys]


def test_more_ids_than_int32_can_name_are_refused() -> None:
    # one byte seen two thousand million times: the check must come before any pass over the ids.
    ids = np.broadcast_to(np.uint8(0), 2**31)
    with pytest.raises(UserError, match=r"^ids must hold at most 2147483647 ids; got 2147483648\. Use less text\."):
        check_ids(ids, 256)

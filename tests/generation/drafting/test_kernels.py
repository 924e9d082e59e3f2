"""The hashed n-grams and the walks over them, against plain Python."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from rhapsode.generation.drafting import kernels
from rhapsode.generation.drafting.phases import Sources
from rhapsode.generation.drafting.tables import ORDERS, NgramTable, build_table, make_table


def count_plain(ids: list[int], *, recent: bool) -> dict[tuple[int, ...], tuple[int, int]]:
    """What a table holds that is large enough: for each context the id and its votes."""
    cells: dict[tuple[int, ...], tuple[int, int]] = {}
    for place in range(1, len(ids)):
        for order in ORDERS:
            if order > place:
                continue
            context = tuple(ids[place - order : place])
            token, votes = cells.get(context, (ids[place], 0))
            if token == ids[place]:
                cells[context] = (token, votes + 1)
            elif recent or votes == 1:
                cells[context] = (ids[place], 1)
            else:
                cells[context] = (token, votes - 1)
    return cells


def find_plain(table: NgramTable, context: list[int]) -> tuple[int, int] | None:
    keys = np.zeros(len(ORDERS), dtype=np.uint64)
    number = kernels.hash_contexts(np.array(context), len(context), keys)
    cell = kernels.find(table, keys[number - 1])
    return None if cell < 0 else (int(table.ids[cell]), int(table.votes[cell]))


@pytest.mark.parametrize("recent", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_table_holds_what_followed_each_context(recent: bool, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 4, 300)
    table = make_table(len(ids) * len(ORDERS) * 8)
    kernels.learn(table, ids, 0, 200, recent)
    kernels.learn(table, ids, 200, 300, recent)
    for context, cell in count_plain(ids.tolist(), recent=recent).items():
        assert find_plain(table, list(context)) == cell


def test_the_majority_vote_finds_the_majority() -> None:
    ids = np.random.default_rng(0).choice(6, size=20_000, p=[0.7, 0.1, 0.05, 0.05, 0.05, 0.05])
    table = build_table(ids)
    followers: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
        followers[int(a), int(b)][int(c)] += 1
    for context, counts in followers.items():
        token, times = counts.most_common(1)[0]
        if times > 0.6 * counts.total():
            found = find_plain(table, list(context))
            assert found is not None
            assert found[0] == token


def test_a_small_table_overwrites_and_never_grows() -> None:
    table = make_table(32)
    ids = np.random.default_rng(0).integers(0, 100, 2_000)
    kernels.learn(table, ids, 0, len(ids), True)
    assert table.keys.size == 32
    assert (table.votes[table.keys > 0] >= 1).all()


def test_a_long_text_is_thinned_out() -> None:
    ids = np.random.default_rng(0).integers(0, 50, 40_000)
    assert build_table(ids, max_ids=8_192).keys.size <= 1 << 17


def tables_of(*texts: list[int]) -> Sources:
    tables = []
    for text in texts:
        table = make_table(4096)
        kernels.learn(table, np.array(text, dtype=np.int64), 0, len(text), True)
        tables.append(table)
    return Sources(*tables)


@pytest.mark.parametrize("width", [1, 4])
def test_walk_and_search_follow_the_surest_source(width: int) -> None:
    tables = tables_of([1, 2, 3, 4, 5, 6, 7], [9, 3, 8, 8], [3, 4])
    estimates = np.full((3, len(ORDERS), kernels.NUM_BUCKETS), 0.3)
    estimates[0, 1:] = 0.9
    ids = np.zeros(20, dtype=np.int64)
    ids[:2] = 2, 3
    draft, chances, cells = np.zeros(8, np.int64), np.zeros(8), np.zeros(8, np.int64)
    if width == 1:
        size = kernels.walk(tables, estimates, ids, 2, 0, 3, 8, 0.01, draft, chances, cells)
    else:
        size = kernels.search(tables, estimates, ids, 2, 0, 3, 8, 0.01, width, draft, chances, cells)
    assert draft[:4].tolist() == [4, 5, 6, 7]
    assert chances[:4] == pytest.approx([0.9] * 4)
    assert size >= 4


def test_the_search_gives_up_a_likely_id_for_a_likelier_path() -> None:
    # after 1 the surest id is 2, behind which nothing is sure; 3 is a little less sure and leads on.
    tables = tables_of([1, 2], [1, 3, 4, 5, 6], [0])
    estimates = np.full((3, len(ORDERS), kernels.NUM_BUCKETS), 0.05)
    estimates[0, 0], estimates[1] = 0.6, 0.55
    ids = np.zeros(20, dtype=np.int64)
    ids[0] = 1
    arrays = np.zeros(8, np.int64), np.zeros(8), np.zeros(8, np.int64)
    kernels.walk(tables, estimates, ids, 1, 0, 2, 8, 0.01, *arrays)
    assert arrays[0][0] == 2
    assert kernels.search(tables, estimates, ids, 1, 0, 2, 8, 0.01, 4, *arrays) == 4
    assert arrays[0][:4].tolist() == [3, 4, 5, 6]


def test_estimates_move_towards_what_was_accepted() -> None:
    estimates = np.full((3, len(ORDERS), kernels.NUM_BUCKETS), 0.5)
    trials = np.full_like(estimates, 2.0)
    cells = np.array([5, 9, 9], dtype=np.int64)
    for _ in range(50):
        kernels.settle(estimates, trials, cells, 1, 2, 0.98)
    assert estimates.flatten()[5] > 0.95
    assert estimates.flatten()[9] < 0.05
    assert (np.delete(estimates.flatten(), [5, 9]) == 0.5).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_that_ends_where_nothing_pays_finds_the_best_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 5, 400).tolist()
    tables = tables_of(text[:200], text[200:], [0])
    estimates = rng.random((3, len(ORDERS), kernels.NUM_BUCKETS)) ** 0.3
    costs = np.concatenate([[1.0], 1.0 + np.cumsum(rng.random(12) * 0.4)])
    draft, chances, cells = np.zeros((2, 12), np.int64), np.zeros((2, 12)), np.zeros((2, 12), np.int64)
    ids = np.zeros(60, dtype=np.int64)
    ids[:40] = text[100:140]
    size = kernels.walk(tables, estimates, ids, 40, 0, 3, 12, 0.02, draft[0], chances[0], cells[0])
    wanted = kernels.best_length(chances[0, :size], costs)
    found = kernels.walk_as_it_pays(tables, estimates, ids, 40, 0, 3, 0.02, costs, draft[1], chances[1], cells[1])
    assert found == wanted
    assert draft[1, :found].tolist() == draft[0, :found].tolist()
    assert cells[1, :found].tolist() == cells[0, :found].tolist()

"""Full text against BM25 computed from the texts themselves, through random adding and removing."""

import math
import sqlite3
from collections import Counter

import numpy as np
import pytest

from rhapsode.errors import StateError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.store.filtering import Selection
from rhapsode.memory.store.postings import BLOCK_ENTRIES, ENTRY, PostingChanges, decode
from rhapsode.memory.store.schema import migrate
from rhapsode.memory.store.text_search import search_text, take_best
from rhapsode.memory.terms import find_terms

WORDS = [f"w{i}" for i in range(60)]


def make_connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def make_text(rng: np.random.Generator) -> str:
    # squares: some words stand in almost every text, some in few.
    return " ".join(WORDS[int(60 * rng.random() ** 2)] for _ in range(rng.integers(1, 30)))


def bm25(texts: dict[int, str], terms: set[str], config: StoreConfig) -> dict[int, float]:
    counts = {i: Counter(find_terms(text)) for i, text in texts.items()}
    mean = sum(c.total() for c in counts.values()) / len(counts)
    frequency = {term: sum(term in c for c in counts.values()) for term in terms}
    common = max(config.common_min, config.common_share * len(texts))
    used = {term for term in terms if 0 < frequency[term] <= common} or {term for term in terms if frequency[term]}
    scores: dict[int, float] = {}
    for i, count in counts.items():
        for term in used:
            if term in count:
                n, c = frequency[term], count[term]
                idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
                norm = config.bm25_k1 * (1 - config.bm25_b + config.bm25_b * count.total() / mean)
                scores[i] = scores.get(i, 0) + idf * c * (config.bm25_k1 + 1) / (c + norm)
    return scores


@pytest.mark.parametrize("common_min", [1_000, 5])
def test_scores_equal_those_of_the_texts(common_min: int) -> None:
    config = StoreConfig(common_min=common_min)
    rng = np.random.default_rng(1)
    connection, texts, next_id, removed = make_connection(), {}, 1, {}
    for step in range(30):
        changes = PostingChanges()
        for _ in range(rng.integers(1, 40)):
            chance = rng.random()
            if chance < 0.65 or not texts:
                next_id += int(rng.integers(1, 3)) if step else 2**31
                texts[next_id] = make_text(rng)
                changes.add(1, next_id, texts[next_id])
            elif chance < 0.9:
                gone = int(rng.choice(list(texts)))
                removed[gone] = texts.pop(gone)
                changes.remove(1, gone, removed[gone])
            elif removed:
                # an older version that is current again comes back under its small id.
                back = int(rng.choice(list(removed)))
                texts[back] = removed.pop(back)
                changes.add(1, back, texts[back])
        changes.apply(connection)
        assert len(changes) == 0
        if not texts:
            continue
        terms = set(rng.choice(WORDS, 4).tolist()) | {"never"}
        ids, scores = search_text(connection, 1, sorted(terms), config)
        expected = bm25(texts, terms, config)
        assert dict(zip(ids.tolist(), scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-12)
        assert ids.tolist() == sorted(ids.tolist())
        k = int(rng.integers(1, 12))
        best, best_scores = take_best(ids, scores, k)
        plain = sorted(zip((-scores).tolist(), ids.tolist(), strict=True))[:k]
        assert list(zip((-best_scores).tolist(), best.tolist(), strict=True)) == plain
        allowed = np.sort(rng.choice(list(texts), min(3, len(texts)), replace=False))
        left = {int(i): texts[int(i)] for i in allowed}
        num_terms = sum(len(find_terms(text)) for text in left.values())
        ids, scores = search_text(connection, 1, sorted(terms), config, Selection(allowed, num_terms))
        assert dict(zip(ids.tolist(), scores.tolist(), strict=True)) == pytest.approx(
            bm25(left, terms, config), rel=1e-12
        )
    assert max(texts) - min(texts) > 2**31 or min(texts) > 2**31


def test_blocks_stay_sorted_and_bounded() -> None:
    connection, rng = make_connection(), np.random.default_rng(0)
    ids = rng.permutation(np.arange(1, 2_000)).tolist()
    for start in range(0, len(ids), 100):
        changes = PostingChanges()
        for i in ids[start : start + 100]:
            changes.add(1, i, "same")
        changes.apply(connection)
    blocks = connection.execute("SELECT first, block FROM postings ORDER BY first").fetchall()
    assert all(len(block) <= BLOCK_ENTRIES * ENTRY.itemsize for _, block in blocks)
    assert [i for first, block in blocks for i, _, _ in decode(first, block)] == sorted(ids)


def test_distances_that_do_not_fit_a_block_begin_a_new_one() -> None:
    connection = make_connection()
    changes = PostingChanges()
    wide = [1, 2, 2**32 + 5, 2**33 + 9, 2**62]
    for i in wide:
        changes.add(1, i, "same")
    changes.apply(connection)
    changes.add(1, 2**62 + 1, "same")
    changes.apply(connection)
    ids, _ = search_text(connection, 1, ["same"], StoreConfig())
    assert sorted(ids.tolist()) == [*wide, 2**62 + 1]


def test_removing_what_is_not_there_is_a_damaged_index() -> None:
    connection = make_connection()
    changes = PostingChanges()
    changes.remove(1, 4, "nothing")
    with pytest.raises(StateError, match="the full-text index must hold row 4; it does not"):
        changes.apply(connection)


def test_long_texts_saturate() -> None:
    connection = make_connection()
    changes = PostingChanges()
    changes.add(1, 1, "x " * 70_000)
    changes.add(1, 2, "x")
    changes.apply(connection)
    ids, scores = search_text(connection, 1, ["x"], StoreConfig())
    assert set(ids.tolist()) == {1, 2}
    assert np.isfinite(scores).all()
    changes.remove(1, 1, "x " * 70_000)
    changes.apply(connection)
    assert connection.execute("SELECT num_rows, num_terms FROM spaces").fetchone() == (1, 1)

"""The fast n-gram memory against the definition, and against Kneser-Ney where there are no rows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError, UserError
from rhapsode.memory import KneserNey
from rhapsode.memory.ngram_base import build_ngram_base, load_ngram_base, no_ngrams, save_ngram_base
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.memory.ngram_memory_plain import PlainNgramMemory


def make_text(seed: int, length: int, vocab_size: int) -> np.ndarray:
    """Ids that each follow from the two before four times out of five."""
    rng = np.random.default_rng(seed)
    likely = np.random.default_rng(0).integers(0, vocab_size, size=(vocab_size, vocab_size))
    ids = rng.integers(0, vocab_size, size=length)
    for i in range(2, length):
        if rng.random() < 0.8:
            ids[i] = likely[ids[i - 2], ids[i - 1]]
    return ids


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_equals_the_definition(data: st.DataObject) -> None:
    vocab_size, order = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    texts = st.lists(st.integers(0, vocab_size - 1), max_size=25)
    base = data.draw(texts)
    fast = NgramMemory.fit(np.array(base, dtype=np.int64), vocab_size, order)
    plain = PlainNgramMemory(base, vocab_size, order)
    for row_id in range(data.draw(st.integers(0, 4))):
        plain.rows[row_id] = data.draw(texts)
        fast.learn(row_id, np.array(plain.rows[row_id], dtype=np.int64))
    for row_id in data.draw(st.sets(st.sampled_from(sorted(plain.rows)))) if plain.rows else ():
        del plain.rows[row_id]
        fast.forget(row_id)
    other = data.draw(texts)
    scores = fast.score(np.array(other, dtype=np.int64))
    for i, token in enumerate(other):
        # at most a few dozen float64 terms below 1: five digits are left for rounding.
        assert np.exp(scores.log_probs[i]) == pytest.approx(plain.probability(token, other[:i]), abs=1e-10)
        assert (scores.match_lengths[i], scores.counts[i]) == plain.match(other[:i])
    found = fast.predict(fast.start(np.array(other, dtype=np.int64)))
    expected = [plain.probability(token, other) for token in range(vocab_size)]
    np.testing.assert_allclose(np.exp(found.log_probabilities), expected, rtol=0, atol=1e-10)
    assert (found.match_length, found.count) == plain.match(other)


@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_without_rows_it_is_kneser_ney(order: int) -> None:
    train, other = make_text(1, 5000, 30), make_text(2, 2000, 30)
    log_probs, match_lengths = KneserNey.fit(train, 30, order).score(other)
    scores = NgramMemory.fit(train, 30, order).score(other)
    np.testing.assert_allclose(scores.log_probs, log_probs, rtol=1e-12, atol=1e-12)
    assert np.array_equal(scores.match_lengths, match_lengths)


@pytest.mark.parametrize("order", [2, 5, 8])
def test_reading_and_scoring_are_predicting_bit_for_bit(order: int) -> None:
    memory = NgramMemory.fit(make_text(1, 3000, 20), 20, order)
    memory.learn(5, make_text(2, 1500, 20))
    other = make_text(3, 3000, 20)
    scores, read = memory.score(other), memory.reader().read(other)
    for i in range(0, 3000, 37):
        found = memory.predict(memory.start(other[:i]))
        assert scores.log_probs[i] == found.log_probabilities[other[i]]
        assert np.array_equal(read.log_probabilities[i], found.log_probabilities.astype(np.float32))


def test_counts_that_grow_predict_better_and_are_gone_afterwards() -> None:
    memory, text = NgramMemory.fit(make_text(1, 2000, 40), 40, 5), make_text(2, 4000, 40)
    static = memory.score(text)
    online = memory.score(text, learn_as=1)
    assert online.log_probs.mean() > static.log_probs.mean() + 0.05
    memory.forget(1)
    assert np.array_equal(memory.score(text).log_probs, static.log_probs)


def test_forgetting_gives_the_room_back() -> None:
    memory = NgramMemory.empty(50, 6)
    size = memory.size_bytes
    for row_id in range(40):
        memory.learn(row_id, make_text(row_id, 500, 50))
    grown = memory.size_bytes
    for row_id in range(40):
        memory.forget(row_id)
    assert grown > 20 * size
    assert memory.size_bytes == size


def test_two_memories_share_a_base() -> None:
    first = NgramMemory.fit(make_text(1, 500, 20), 20, 4)
    second = NgramMemory(first.base, 20)
    before = second.score(make_text(3, 200, 20)).log_probs
    first.learn(1, make_text(3, 200, 20))
    assert np.array_equal(second.score(make_text(3, 200, 20)).log_probs, before)


def test_discounts_of_another_text_are_used_where_there_is_none() -> None:
    base = build_ngram_base(make_text(1, 5000, 30), 30, 4)
    memory, fallback = NgramMemory.empty(30, 4, base.discounts), NgramMemory.empty(30, 4)
    for each in (memory, fallback):
        each.learn(1, make_text(2, 1000, 30))
    text = make_text(3, 1000, 30)
    assert memory.score(text).log_probs.mean() > fallback.score(text).log_probs.mean()


def test_base_of_a_known_text() -> None:
    base = build_ngram_base(np.array([0, 1, 0, 1, 2]), 3, 2)
    # root; 0, 1, 2; then 01, 10, 12.
    assert base.tokens.tolist() == [-1, 0, 1, 2, 1, 0, 2]
    assert base.first_children.tolist() == [1, 4, 5, 7, 7]
    # 0 follows the start and 1; the highest order counts occurrences.
    assert base.counts.tolist() == [0, 2, 1, 1, 2, 1, 1]
    assert base.totals.tolist() == [4, 2, 2, 0]
    assert base.order == 2


@pytest.mark.parametrize("order", [0, -3])
def test_orders_below_one_are_refused(order: int) -> None:
    for text in (np.array([0, 1]), np.empty(0, dtype=np.int64)):
        with pytest.raises(UserError, match=f"order must be at least 1; got {order}"):
            NgramMemory.fit(text, 3, order)


def test_other_misuse_is_refused() -> None:
    with pytest.raises(UserError, match=r"discounts must be 3 x 4 and above 0"):
        no_ngrams(3, np.ones((2, 4)))
    with pytest.raises(UserError, match=r"discounts must be 2 x 4 and above 0"):
        NgramMemory.empty(9, 2, np.zeros((2, 4)))
    memory = NgramMemory.empty(9, 2)
    with pytest.raises(UserError, match="id must be at least 0 and below the vocabulary size 9; got 9"):
        memory.advance((), 9)
    with pytest.raises(UserError, match="context must be at least 0 and below the vocabulary size 9; got 12"):
        memory.start(np.array([12]))
    with pytest.raises(UserError, match="the base must be at least 0 and below the vocabulary size 5; got 6"):
        NgramMemory(build_ngram_base(np.array([6, 6]), 9, 2), 5)


def test_only_the_end_of_a_long_context_counts() -> None:
    memory = NgramMemory.fit(make_text(1, 500, 20), 20, 4)
    ids = make_text(2, 50, 20)
    assert memory.start(ids) == tuple(ids[-3:].tolist())
    assert memory.advance(memory.start(ids[:-1]), int(ids[-1])) == memory.start(ids)


def test_it_works_without_torch() -> None:
    script = (
        "import sys, numpy as np\n"
        "from rhapsode.memory import NgramMemory\n"
        "memory = NgramMemory.empty(9, 3)\n"
        "memory.learn(1, np.array([1, 2, 3]))\n"
        "memory.predict((1, 2)); memory.forget(1)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


@pytest.mark.parametrize("text", [make_text(1, 3000, 20), np.empty(0, dtype=np.int64)])
def test_a_base_is_the_same_after_saving(tmp_path: Path, text: np.ndarray) -> None:
    base = build_ngram_base(text, 20, 5)
    save_ngram_base(tmp_path / "base.safetensors", base)
    loaded = load_ngram_base(tmp_path / "base.safetensors")
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(loaded, base, strict=True))
    save_ngram_base(tmp_path / "again.safetensors", loaded)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "base.safetensors").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"counts": np.zeros(3, dtype=np.int32)},
        {"weights": np.zeros(3)},
        {"discounts": np.ones((5, 3))},
        {"first_children": np.array([1, 9, 4, 900], dtype=np.int32)},
    ],
)
def test_a_damaged_base_is_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    path = tmp_path / "base.safetensors"
    base = build_ngram_base(make_text(1, 3000, 20), 20, 5)
    save_ngram_base(path, base._replace(**change))
    with pytest.raises(StateError, match="must hold n-gram counts, but it is damaged"):
        load_ngram_base(path)
    children = base.first_children.copy()
    children[5], children[6] = children[6] + 3, children[5]
    save_ngram_base(path, base._replace(first_children=children))
    with pytest.raises(StateError, match="must hold n-gram counts, but it is damaged"):
        load_ngram_base(path)


@pytest.mark.slow
def test_a_long_text_is_learnt_and_forgotten_exactly() -> None:
    base, text = make_text(1, 100_000, 60), make_text(2, 100_000, 60)
    memory = NgramMemory.fit(base, 60, 8)
    before = memory.score(text)
    memory.learn(1, text)
    memory.learn(2, text[::-1].copy())
    one = NgramMemory(memory.base, 60)
    one.learn(2, text[::-1].copy())
    memory.forget(1)
    assert np.array_equal(memory.score(text).log_probs, one.score(text).log_probs)
    memory.forget(2)
    after = memory.score(text)
    assert np.array_equal(after.log_probs, before.log_probs)
    assert np.array_equal(after.counts, before.counts)

"""Every token memory against its contract in `memory/token_contracts.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError, UserError
from rhapsode.memory.knn_memory import KNNMemory
from rhapsode.memory.knn_search import KNNBase
from rhapsode.memory.ngram_base import build_ngram_base
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.memory.token_contracts import TokenMemory

VOCAB, DIM = 11, 5


def make_ids(seed: int, length: int) -> np.ndarray:
    """Ids that mostly go up by one, so that contexts come again."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(length) < 0.8, 1, rng.integers(0, VOCAB, length))
    return (np.cumsum(steps) % VOCAB).astype(np.uint16)


def make_hidden(ids: np.ndarray) -> np.ndarray:
    """A vector after each id that depends mostly on the last two, as a model's would, and never comes twice."""
    table = np.random.default_rng(7).normal(size=(VOCAB + 1, VOCAB, DIM)).astype(np.float32)
    before = np.concatenate([[VOCAB], ids[:-1]]) if len(ids) else ids
    noise = np.random.default_rng(8).normal(size=(3000, DIM))[: len(ids)].astype(np.float32)
    return table[before.astype(np.int64), ids.astype(np.int64)] + np.float32(0.1) * noise


KNN_BASE = KNNBase.build(make_ids(0, 200)[1:], make_hidden(make_ids(0, 200))[:-1])
NGRAM_BASE = build_ngram_base(make_ids(0, 200), VOCAB, 4)
MAKERS: dict[str, Callable[[], TokenMemory[Any]]] = {
    "ngram": lambda: NgramMemory(NGRAM_BASE, VOCAB),
    "ngram without a base": lambda: NgramMemory.empty(VOCAB, 3),
    "ngram of order 1": lambda: NgramMemory.fit(make_ids(0, 50), VOCAB, 1),
    "knn": lambda: KNNMemory(VOCAB, DIM),
    "knn with a base": lambda: KNNMemory(VOCAB, DIM, base=KNN_BASE),
}
every_memory = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
Make = Callable[[], TokenMemory[Any]]


def teach(memory: TokenMemory[Any], row_id: int, ids: np.ndarray) -> None:
    memory.learn(row_id, ids, make_hidden(ids))


def snapshot(memory: TokenMemory[Any]) -> list[np.ndarray]:
    """All that a memory says about a text, to be compared bit for bit."""
    ids = make_ids(99, 60)
    hidden = make_hidden(ids)
    scores = memory.score(ids, hidden)
    reader = memory.reader()
    first, rest = reader.read(ids[:1]), reader.read(ids[1:], hidden[:-1])
    single = [memory.predict(memory.start(ids[:n], hidden[:n])).log_probabilities for n in (0, 1, 3, 60)]
    found = [*first.log_probabilities, *rest.log_probabilities, rest.match_lengths, rest.counts, *single]
    return [scores.log_probs, scores.match_lengths, scores.counts, *found]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_memory
def test_is_a_token_memory(make: Make) -> None:
    memory = make()
    assert isinstance(memory, TokenMemory)
    assert memory.vocab_size == VOCAB
    assert memory.row_ids == ()
    size = memory.size_bytes
    teach(memory, 9, make_ids(1, 2000))
    teach(memory, 4, make_ids(2, 10))
    assert memory.row_ids == (4, 9)
    assert memory.size_bytes > size


@every_memory
def test_a_prediction_is_a_distribution(make: Make) -> None:
    memory = make()
    teach(memory, 1, make_ids(1, 40))
    ids = make_ids(5, 20)
    for length in range(21):
        found = memory.predict(memory.start(ids[:length], make_hidden(ids[:length])))
        assert np.isfinite(found.log_probabilities).all()
        # eleven float64 terms.
        assert np.exp(found.log_probabilities).sum() == pytest.approx(1, abs=1e-12)
        assert found.match_length >= 0
        assert found.count >= 0
    texts = memory.reader().read(ids[:1]).log_probabilities
    assert np.exp(texts).sum() == pytest.approx(1, abs=1e-5)


@every_memory
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_what_was_forgotten_was_never_there(make: Make, data: st.DataObject) -> None:
    memory, live = make(), {}
    for step in range(data.draw(st.integers(1, 8), label="steps")):
        if live and data.draw(st.booleans(), label="forget"):
            row = data.draw(st.sampled_from(sorted(live)))
            memory.forget(row)
            del live[row]
        else:
            row = data.draw(st.integers(0, 50).filter(lambda number: number not in live))
            ids = make_ids(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 30)))
            if data.draw(st.booleans(), label="online"):
                memory.score(ids, make_hidden(ids), learn_as=row)
            else:
                teach(memory, row, ids)
            live[row] = ids
        assert memory.row_ids == tuple(sorted(live)), step
    other = make()
    for row in data.draw(st.permutations(sorted(live))):
        teach(other, row, live[row])
    assert_same(snapshot(memory), snapshot(other))


@every_memory
def test_states_are_values(make: Make) -> None:
    memory = make()
    teach(memory, 1, make_ids(1, 50))
    ids = make_ids(6, 12)
    hidden = make_hidden(ids)
    state = memory.start(ids[:6], hidden[:6])
    before = memory.predict(state).log_probabilities
    branches = [
        memory.advance(state, token, vector) for token, vector in zip(ids[6:].tolist(), hidden[6:], strict=True)
    ]
    assert len(branches) == 6
    assert np.array_equal(memory.predict(state).log_probabilities, before)
    stepped = memory.start(ids[:0], hidden[:0])
    for token, vector in zip(ids.tolist(), hidden, strict=True):
        stepped = memory.advance(stepped, token, vector)
    whole = memory.predict(memory.start(ids, hidden))
    assert np.array_equal(memory.predict(stepped).log_probabilities, whole.log_probabilities)


@every_memory
@pytest.mark.parametrize("learn_as", [None, 8])
@pytest.mark.parametrize("cuts", [[], [1, 2, 17], [30]])
def test_reading_equals_predicting_step_by_step(make: Make, learn_as: int | None, cuts: list[int]) -> None:
    memory = make()
    teach(memory, 3, make_ids(1, 80))
    ids = make_ids(6, 40)
    hidden = make_hidden(ids)
    reader = memory.reader(learn_as=learn_as)
    parts = [reader.read(ids[:1])]
    for begin, end in zip([1, *(cut + 1 for cut in cuts)], [*(cut + 1 for cut in cuts), 40], strict=True):
        parts.append(reader.read(ids[begin:end], hidden[begin - 1 : end - 1]))
    read = np.concatenate([part.log_probabilities for part in parts])
    lengths, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("match_lengths", "counts"))
    plain = make()
    teach(plain, 3, make_ids(1, 80))
    scored = plain.score(ids, hidden, learn_as=learn_as)
    assert plain.row_ids == memory.row_ids
    for i in range(40):
        step = make()
        teach(step, 3, make_ids(1, 80))
        if learn_as is not None:
            teach(step, learn_as, ids[:i])
        found = step.predict(step.start(ids[:i], hidden[:i]))
        # read in float32; distances come from products whose order differs with their number.
        np.testing.assert_allclose(read[i], found.log_probabilities, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scored.log_probs[i], found.log_probabilities[ids[i]], rtol=1e-4, atol=1e-4)
        assert (lengths[i], counts[i]) == (found.match_length, found.count)
        assert (scored.match_lengths[i], scored.counts[i]) == (found.match_length, found.count)


@every_memory
def test_a_row_is_a_copy(make: Make) -> None:
    memory, ids = make(), make_ids(1, 30)
    hidden = make_hidden(ids)
    teach(memory, 1, ids)
    before = snapshot(memory)
    memory.learn(2, ids, hidden)
    ids[:], hidden[:] = 0, 0
    memory.forget(2)
    assert_same(snapshot(memory), before)


@every_memory
def test_misuse_is_refused_and_changes_nothing(make: Make) -> None:
    memory, ids = make(), make_ids(1, 30)
    teach(memory, 1, ids)
    before = snapshot(memory)
    with pytest.raises(UserError, match="row must have a number of its own; 1 is taken"):
        teach(memory, 1, ids)
    with pytest.raises(UserError, match="row must have a number of its own; 1 is taken"):
        memory.reader(learn_as=1)
    with pytest.raises(UserError, match="row must be one that the memory holds; got 2"):
        memory.forget(2)
    with pytest.raises(UserError, match="below the vocabulary size 11; got 11"):
        memory.learn(2, np.array([1, 11]), np.ones((2, DIM), dtype=np.float32))
    with pytest.raises(UserError, match="below the vocabulary size 11; got -1"):
        memory.score(np.array([1, -1]), np.ones((2, DIM), dtype=np.float32), learn_as=2)
    assert memory.row_ids == (1,)
    assert_same(snapshot(memory), before)


@every_memory
def test_a_reader_notices_that_the_memory_changed(make: Make) -> None:
    memory, ids = make(), make_ids(1, 30)
    reader = memory.reader()
    reader.read(ids[:1])
    teach(memory, 1, ids)
    with pytest.raises(StateError, match="must not change while it is read"):
        reader.read(ids[1:], make_hidden(ids)[:-1])

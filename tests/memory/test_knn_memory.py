"""The nearest-neighbour memory against a loop over all stored vectors, and at its edges."""

from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.memory.knn_memory import KNNMemory, KNNSettings, fit_temperature
from rhapsode.memory.knn_search import KNNBase, merge
from rhapsode.memory.token_files import read_arrays, write_arrays

VOCAB, DIM = 9, 6


def make_text(seed: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random vectors, each mostly followed by the id that its largest coordinate names."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(length, DIM)).astype(np.float32)
    ids = rng.integers(0, VOCAB, length)
    for i in range(1, length):
        if rng.random() < 0.8:
            ids[i] = hidden[i - 1].argmax()
    return ids, hidden


def plain_predict(
    items: list[tuple[np.ndarray, int]], query: np.ndarray, settings: KNNSettings
) -> tuple[np.ndarray, float]:
    """Return the probabilities and the sum of weights, straight from the equation."""
    found = sorted((float(((vector.astype(np.float64) - query) ** 2).sum()), int(token)) for vector, token in items)
    found = found[: settings.num_neighbours]
    weights = [np.exp(-(distance - found[0][0]) / settings.temperature) for distance, _ in found]
    probabilities = np.full(VOCAB, settings.prior / VOCAB)
    for weight, (_, token) in zip(weights, found, strict=True):
        probabilities[token] += weight
    return probabilities / (sum(weights) + settings.prior), float(sum(weights))


def base_of(ids: np.ndarray, hidden: np.ndarray) -> KNNBase:
    return KNNBase.build(ids[1:], hidden[:-1])


def items_of(*texts: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, int]]:
    return [(hidden[i], int(ids[i + 1])) for ids, hidden in texts for i in range(len(ids) - 1)]


@pytest.mark.parametrize("num_neighbours", [1, 7, 500])
@pytest.mark.parametrize("with_base", [False, True])
def test_equals_the_equation(num_neighbours: int, with_base: bool) -> None:
    settings = KNNSettings(num_neighbours=num_neighbours, temperature=1.7, prior=0.3)
    texts = [make_text(seed, 60) for seed in range(3)]
    memory = KNNMemory(VOCAB, DIM, settings, base_of(*texts[0]) if with_base else None)
    for row_id, text in ((2, texts[1]), (1, texts[2])):
        memory.learn(row_id, *text)
    items = items_of(*(texts if with_base else texts[1:]))
    for query in np.random.default_rng(9).normal(size=(20, DIM)).astype(np.float32):
        found = memory.predict(query)
        expected, total = plain_predict(items, query, settings)
        # float32 distances of a few units: 1e-6 of them, over the temperature.
        np.testing.assert_allclose(np.exp(found.log_probabilities), expected, rtol=1e-5)
        assert found.count == round(total)


def test_nearer_is_a_longer_match() -> None:
    memory = KNNMemory(VOCAB, DIM, KNNSettings(temperature=1.0))
    ids, hidden = make_text(1, 2)
    memory.learn(1, ids, hidden)
    direction = np.eye(DIM, dtype=np.float32)[0]
    lengths = [memory.predict(hidden[0] + np.float32(step) * direction).match_length for step in (0, 0.5, 1, 3, 1e3)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 15
    assert lengths[-1] == 1
    assert len(set(lengths)) == 5


def test_without_a_vector_or_an_item_nothing_is_known() -> None:
    memory = KNNMemory(VOCAB, DIM)
    for state in (None, np.ones(DIM, dtype=np.float32)):
        found = memory.predict(state)
        assert np.allclose(found.log_probabilities, -np.log(VOCAB))
        assert (found.match_length, found.count) == (0, 0)
    memory.learn(1, *make_text(1, 1))
    assert memory.num_items == 0
    assert memory.row_ids == (1,)
    memory.forget(1)
    assert memory.row_ids == ()


def test_what_was_forgotten_is_overwritten() -> None:
    memory = KNNMemory(VOCAB, DIM)
    secret = make_text(1, 50)
    memory.learn(1, *secret)
    memory.learn(2, *make_text(2, 3000))
    memory.forget(1)
    memory.forget(2)
    assert not memory._vectors.any()
    assert not memory._followers.any()


def test_the_right_temperature_is_found() -> None:
    memory = KNNMemory(VOCAB, DIM, KNNSettings(num_neighbours=64))
    memory.learn(1, *make_text(1, 3000))
    ids, hidden = make_text(2, 800)
    guess = np.full(799, -np.log(VOCAB))
    best = fit_temperature(memory, ids[1:], hidden[:-1], guess)
    assert best.num_neighbours == 64
    losses = {}
    for factor in (0.01, 1.0, 100.0):
        other = KNNMemory(VOCAB, DIM, KNNSettings(64, best.temperature * factor))
        other.learn(1, *make_text(1, 3000))
        losses[factor] = -other.score(ids, hidden).log_probs[1:].mean()
    assert min(losses, key=lambda factor: losses[factor]) == 1.0


def test_the_temperature_of_a_text_that_is_learnt_as_it_is_read() -> None:
    memory = KNNMemory(VOCAB, DIM)
    ids, hidden = make_text(2, 2500)
    best = fit_temperature(memory, ids[1:], hidden[:-1], np.full(2499, -np.log(VOCAB)), learn_as=3)
    assert best.temperature > 0
    assert memory.row_ids == ()
    assert memory.num_items == 0
    with pytest.raises(UserError, match="must have neighbours in the memory; got none"):
        fit_temperature(memory, ids[1:], hidden[:-1], np.full(2499, -np.log(VOCAB)))


def test_misuse_is_refused() -> None:
    ids, hidden = make_text(1, 5)
    memory = KNNMemory(VOCAB, DIM)
    with pytest.raises(UserError, match="hidden must be given"):
        memory.learn(1, ids)
    with pytest.raises(UserError, match="hidden must be given"):
        memory.reader().read(ids)
    with pytest.raises(UserError, match=r"hidden must have shape \(5, 6\); got \(5, 4\)"):
        memory.learn(1, ids, hidden[:, :4])
    with pytest.raises(UserError, match="hidden must be finite"):
        memory.learn(1, ids, np.full_like(hidden, np.nan))
    assert memory.row_ids == ()
    with pytest.raises(UserError, match="dim must be at least 1; got 0"):
        KNNMemory(VOCAB, 0)
    with pytest.raises(UserError, match="num_neighbours must be at least 1; got 0"):
        KNNMemory(VOCAB, DIM, KNNSettings(num_neighbours=0))
    with pytest.raises(UserError, match=r"must be above 0; got 0\.0 and 0\.5"):
        KNNMemory(VOCAB, DIM, KNNSettings(temperature=0.0))
    with pytest.raises(UserError, match="dim must be that of the base, 6; got 3"):
        KNNMemory(VOCAB, 3, base=base_of(ids, hidden))
    with pytest.raises(UserError, match="a base must have at least one vector; got none"):
        base_of(ids[:1], hidden[:1])


def test_nothing_found_is_nothing_merged() -> None:
    found = merge([], 3, 10)
    assert found.distances.shape == (3, 0)


def test_a_base_is_the_same_after_saving(tmp_path: Path) -> None:
    base, queries = base_of(*make_text(1, 300)), make_text(2, 20)[1]
    base.save(tmp_path / "base")
    loaded = KNNBase.load(tmp_path / "base")
    for found, expected in zip(
        vars(loaded.search(queries, 9)).values(), vars(base.search(queries, 9)).values(), strict=True
    ):
        assert np.array_equal(found, expected)
    arrays = read_arrays(tmp_path / "base", ["index", "followers"])
    for change in ({"followers": arrays["followers"][1:]}, {"index": arrays["index"][:20]}):
        write_arrays(tmp_path / "base", {**arrays, **change})
        with pytest.raises(StateError, match="must hold an index of vectors, but it is damaged"):
            KNNBase.load(tmp_path / "base")


@pytest.mark.slow
def test_the_index_of_a_long_text_finds_most_of_the_nearest() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 48))
    hidden = (centres[rng.integers(0, 200, 40_000)] + 0.3 * rng.normal(size=(40_000, 48))).astype(np.float32)
    ids = np.arange(40_000)
    base = base_of(ids, hidden)
    queries = hidden[::400] + np.float32(0.01)
    exact = ((queries[:, None] - hidden[None, :-1]) ** 2).sum(axis=2).argsort(axis=1)[:, :50] + 1
    found = base.search(queries, 50).token_ids
    shared = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    # product quantisation of 48 coordinates in 48 bytes; 16 of 39 lists.
    assert shared > 0.7
    assert base.size_bytes < hidden.nbytes

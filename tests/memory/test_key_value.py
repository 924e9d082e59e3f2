"""The key-value memory against a list of entries searched one by one, and each of its promises."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import StateError, UserError
from rhapsode.memory.key_value import KeyValueMemory
from rhapsode.memory.policies import KeyValueConfig, context_boosts


def make_memory(number: int = 0, width: int = 8, seed: int = 0, **settings: object) -> KeyValueMemory:
    memory = KeyValueMemory(width, KeyValueConfig.model_validate(settings))
    for i, key in enumerate(np.random.default_rng(seed).standard_normal((number, width))):
        memory.write(key, f"value {i}", text=f"text {i}", source="a test", confidence=0.5)
    return memory


def read_plain(memory: KeyValueMemory, query: np.ndarray, k: int) -> list[int]:
    """One entry after another, from what is documented."""
    found = []
    for position, identity in enumerate(memory.column("id").tolist()):
        entry, key = memory.entry(identity), memory.keys()[position].astype(np.float64)
        if entry.superseded:
            continue
        score = float(key @ query)
        if memory.config.similarity == "cosine":
            score /= float(np.linalg.norm(key) * np.linalg.norm(query))
        if memory.config.context_boost:
            numbers = [np.array([entry.confidence]), np.array([entry.uses]), np.array([identity])]
            score += float(context_boosts(*numbers, clock=1 + max(memory.ids))[0])
        found.append((score, identity))
    return [identity for _, identity in sorted(found, reverse=True)[:k]]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("context_boost", [False, True])
@pytest.mark.parametrize(("number", "k"), [(1, 1), (7, 3), (40, 1), (40, 5), (40, 60)])
def test_reading_finds_what_a_plain_search_finds(similarity: str, context_boost: bool, number: int, k: int) -> None:
    memory = make_memory(number, similarity=similarity, context_boost=context_boost)
    for identity in memory.ids[::3]:
        memory.record(identity, identity % 2 == 0)
    queries = np.random.default_rng(1).standard_normal((6, 8))
    hits = memory.read(queries, k)
    for row, query in enumerate(queries):
        wanted = read_plain(memory, query, k)
        assert hits.ids[row].tolist() == wanted + [-1] * (k - len(wanted))
        assert np.isneginf(hits.scores[row, len(wanted) :]).all()
        assert (np.diff(hits.scores[row, : len(wanted)]) <= 0).all()
    if not context_boost:
        assert np.array_equal(hits.scores, hits.similarities)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "again", "name", "forget", "record"]), st.integers(0, 10**6)), max_size=60
    ),
    st.sampled_from([None, 5]),
    st.sampled_from(["oldest", "least_used", "lowest_utility"]),
)
def test_any_history_leaves_what_a_list_of_entries_would(
    history: list[tuple[str, int]], max_entries: int | None, evict: str
) -> None:
    memory = make_memory(max_entries=max_entries, evict=evict)
    random = np.random.default_rng(0)
    alive: dict[int, tuple[np.ndarray, str]] = {}
    for what, number in history:
        if what in ("write", "again", "name"):
            key, name = random.standard_normal(8), None if what == "write" else f"name {number % 3}"
            value = f"value {number}" if what == "name" else "the same"
            written = memory.write(key, value, name=name)
            for gone in written.evicted:
                del alive[gone]
            assert (written.id in alive) == (written.status == "same")
            alive[written.id] = (key, value)
        elif alive:
            identity = list(alive)[number % len(alive)]
            if what == "forget":
                assert memory.forget([identity]) == 1
                del alive[identity]
            else:
                memory.record(identity, number % 2 == 0)
    assert len(memory) == len(alive) <= (max_entries or 10**9)
    assert sorted(memory.ids) == memory.ids == sorted(alive)
    assert memory.values(list(alive)) == [value for _, value in alive.values()]
    for identity, key in zip(memory.column("id").tolist(), memory.keys(), strict=True):
        assert np.allclose(key, alive[identity][0], atol=1e-6)
    query = random.standard_normal(8)
    assert memory.read(query[None], 3).ids[0].tolist()[: len(read_plain(memory, query, 3))] == read_plain(
        memory, query, 3
    )


def test_ids_are_never_used_again() -> None:
    memory = make_memory(3)
    memory.forget([2])
    assert memory.write(np.ones(8), "x").id == 3


def test_an_entry_knows_where_it_came_from_and_how_it_served() -> None:
    memory = make_memory()
    identity = memory.write(np.ones(8), {"a": 1}, name="n", text="t", source="s", confidence=0.5).id
    memory.record(identity, True)
    memory.record(identity, False)
    entry = memory.entry(identity)
    assert (entry.value, entry.name, entry.text, entry.source, entry.version) == ({"a": 1}, "n", "t", "s", 1)
    assert (entry.uses, entry.successes) == (2, 1)
    # 0.5 -> 0.55 after a success -> 0.495 after a failure.
    assert entry.confidence == pytest.approx(0.495)


def test_a_new_value_under_a_name_keeps_both_versions_and_the_newest_is_read() -> None:
    memory = make_memory()
    first = memory.write(np.ones(8), "old", name="capital")
    second = memory.write(np.ones(8), "new", name="capital")
    assert (second.status, second.replaced) == ("newer", first.id)
    assert memory.versions("capital") == [first.id, second.id]
    assert [memory.entry(i).version for i in memory.versions("capital")] == [1, 2]
    assert memory.entry(first.id).superseded
    assert memory.read(np.ones((1, 8)), 2).ids.tolist() == [[second.id, -1]]
    # forgetting the newest brings the one before back.
    memory.forget([second.id])
    assert memory.read(np.ones((1, 8)), 2).ids.tolist() == [[first.id, -1]]
    memory.forget([first.id])
    assert memory.versions("capital") == []


def test_the_same_again_only_refreshes_the_key() -> None:
    memory = make_memory()
    first = memory.write(np.eye(8)[0], np.arange(3), name="n", confidence=0.2)
    again = memory.write(np.eye(8)[1], np.arange(3), name="n", confidence=0.1)
    assert (again.id, again.status, len(memory)) == (first.id, "same", 1)
    assert memory.read(np.eye(8)[1:2]).scores[0, 0] == pytest.approx(1)
    assert memory.entry(first.id).confidence == 0.2


@pytest.mark.parametrize(("evict", "victim"), [("oldest", 0), ("least_used", 1), ("lowest_utility", 2)])
def test_a_full_memory_makes_room_as_its_policy_says(evict: str, victim: int) -> None:
    memory = KeyValueMemory(2, KeyValueConfig.model_validate({"max_entries": 3, "evict": evict}))
    for confidence in (0.9, 0.8, 0.0):
        memory.write(np.ones(2), "x", confidence=confidence)
    memory.record(0, True)
    memory.record(2, False)
    written = memory.write(np.ones(2), "y")
    assert written.evicted == (victim,)
    assert (len(memory), memory.evicted) == (3, 1)


def test_forgetting_is_all_or_nothing() -> None:
    memory = make_memory(4)
    with pytest.raises(UserError, match="id must be that of an entry; got 9"):
        memory.forget([1, 9])
    assert len(memory) == 4
    assert memory.forget([1, 1, 3]) == 2
    assert memory.ids == [0, 2]


def test_forgetting_the_useless_spares_the_untried_only_when_protected() -> None:
    for policy, left in (("off", [0, 1, 2]), ("utility", [2]), ("protected", [0, 2])):
        memory = KeyValueMemory(2)
        for confidence in (0.05, 0.05, 0.9):
            memory.write(np.ones(2), "x", confidence=confidence)
        memory.record(1, False)
        memory.forget_useless(policy, 0.1)
        assert memory.ids == left


def test_keys_are_made_anew_by_a_changed_encoder() -> None:
    memory = make_memory(keys="reencodable")
    for text in ("one", "two"):
        memory.write(np.ones(8), text, text=text, fingerprint="old")
    with pytest.raises(StateError, match="must come from the encoder old as the others here do; got new"):
        memory.write(np.ones(8), "three", text="three", fingerprint="new")
    memory.reencode(
        lambda texts: np.stack([np.eye(8)[len(text)] + (text == "two") for text in texts]), fingerprint="new"
    )
    assert memory.fingerprint == "new"
    assert memory.entry(int(memory.read(np.eye(8)[3:4]).ids[0, 0])).value == "one"
    memory.write(np.ones(8), "three", text="three", fingerprint="new")


def test_a_bad_encoder_leaves_the_keys_as_they_were() -> None:
    memory = make_memory(3, keys="reencodable")
    before = memory.keys()
    with pytest.raises(UserError, match="an encoder must return a key for each text; got 2 for 3"):
        memory.reencode(lambda texts: np.ones((2, 8)))
    with pytest.raises(UserError, match="a key must be finite; got NaN or infinity"):
        memory.reencode(lambda texts: np.full((3, 8), np.nan))
    assert np.array_equal(memory.keys(), before)
    with pytest.raises(UserError, match="keys must be reencodable for a new encoding; got frozen"):
        make_memory(1).reencode(lambda texts: np.ones((1, 8)))


def test_a_copy_goes_its_own_way() -> None:
    memory = make_memory(20)
    other = memory.copy()
    other.forget([3])
    other.write(np.ones(8), "new")
    other.record(4, True)
    assert len(memory) == 20
    assert memory.entry(4).uses == 0
    assert memory.entry(3).value == "value 3"


def test_an_empty_memory_and_no_queries_are_fine() -> None:
    memory = make_memory()
    assert memory.read(np.ones((2, 8)), 3).ids.tolist() == [[-1] * 3] * 2
    assert make_memory(3).read(np.ones((0, 8)), 2).ids.shape == (0, 2)
    zero = make_memory(3).read(np.zeros((1, 8)), 1)
    assert zero.similarities.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KeyValueMemory(0), "key_size must be at least 1; got 0"),
        (lambda: make_memory().write(np.ones(7), "x"), r"a key must have 8 numbers; got the shape \(7,\)"),
        (lambda: make_memory().write(np.full(8, np.inf), "x"), "a key must be finite; got NaN or infinity"),
        (lambda: make_memory().write(np.ones(8), "x", confidence=1.5), "confidence must be between 0 and 1; got 1.5"),
        (lambda: make_memory(keys="reencodable").write(np.ones(8), "x"), "text must be given to a memory with keys"),
        (lambda: make_memory(1).read(np.ones((1, 7))), r"a key must have 8 numbers; got the shape \(7,\)"),
        (lambda: make_memory(1).read(np.ones((1, 8)), 0), "k must be at least 1; got 0"),
        (lambda: make_memory(1).entry(5), "id must be that of an entry; got 5"),
        (lambda: make_memory(1).record(5, True), "id must be that of an entry; got 5"),
    ],
)
def test_what_is_wrong_is_said(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()  # type: ignore[operator]


def test_writing_does_not_slow_down_as_the_memory_grows() -> None:
    memory = make_memory(width=4)
    keys = np.random.default_rng(0).standard_normal((5_000, 4))
    times = []
    for block in np.split(keys, 10):
        began = time.perf_counter()
        for key in block:
            memory.write(key, None)
        times.append(time.perf_counter() - began)
    # linear growth would make the last tenth some 19 times the first; the margin is for a busy machine.
    assert min(times[5:]) < 4 * min(times[:5])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_approximate_search_finds_what_exact_search_finds(similarity: str) -> None:
    random = np.random.default_rng(0)
    # text vectors lie in clusters; so do these.
    centres = random.standard_normal((50, 32))
    keys = centres[random.integers(50, size=3_000)] + 0.5 * random.standard_normal((3_000, 32))
    queries = keys[random.integers(3_000, size=100)] + 0.2 * random.standard_normal((100, 32))
    exact = KeyValueMemory(32, KeyValueConfig.model_validate({"similarity": similarity}))
    near = KeyValueMemory(32, KeyValueConfig.model_validate({"similarity": similarity, "search": "ann"}))
    for key in keys:
        exact.write(key, None)
        near.write(key, None)

    def recall() -> float:
        wanted, found = exact.read(queries, 10).ids, near.read(queries, 10).ids
        return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(wanted.tolist(), found.tolist(), strict=True)]))

    assert recall() >= 0.95
    # what is forgotten is not found, what is written later is, and versions count, without a new index.
    gone = near.read(queries, 1).ids[:, 0].tolist()
    for memory in (exact, near):
        memory.forget(gone)
        for number, query in enumerate(queries):
            memory.write(query, None, name=f"name {number}")
            memory.write(query, 1, name=f"name {number}")
    assert recall() >= 0.95
    assert not np.isin(near.read(queries, 10).ids, gone).any()
    assert (near.read(queries, 1).ids[:, 0] == exact.read(queries, 1).ids[:, 0]).mean() >= 0.95


def test_memory_needs_no_torch() -> None:
    import subprocess
    import sys

    script = (
        "import sys, numpy as np\n"
        "from rhapsode.memory.key_value import KeyValueMemory\n"
        "memory = KeyValueMemory(2); memory.write(np.ones(2), 'x'); memory.read(np.ones((1, 2)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0

"""The fast model against the textbook one, as a probability distribution, and at its edges."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rhapsode.memory
from rhapsode.errors import UserError
from rhapsode.memory import KneserNey, Unigram, default_order
from rhapsode.memory.kneser_ney import DISCOUNTINGS, FALLBACK_DISCOUNTS, estimate_discounts
from rhapsode.memory.kneser_ney_plain import PlainKneserNey


def make_text(seed: int, num_ids: int, vocab_size: int) -> np.ndarray:
    """Ids that repeat themselves: each follows from the two before it four times out of five."""
    rng = np.random.default_rng(seed)
    likely = rng.integers(0, vocab_size, size=(vocab_size, vocab_size))
    ids = rng.integers(0, vocab_size, size=num_ids)
    noisy = rng.random(num_ids) < 0.2
    for i in range(2, num_ids):
        if not noisy[i]:
            ids[i] = likely[ids[i - 2], ids[i - 1]]
    return ids


def assert_equals_plain(train: np.ndarray, other: np.ndarray, vocab_size: int, order: int, discounting: str) -> None:
    fast = KneserNey.fit(train, vocab_size, order, discounting)
    plain = PlainKneserNey(train.tolist(), vocab_size, order, discounting)
    log_probs, match_lengths = fast.score(other)
    for i, token in enumerate(other.tolist()):
        context = other[:i].tolist()
        # both sum at most a few dozen float64 terms below 1: 1e-10 leaves five digits for their rounding.
        assert np.exp(log_probs[i]) == pytest.approx(plain.probability(token, context), abs=1e-10)
        assert match_lengths[i] == plain.match_length(context)
    predicted, match_length = fast.predict(other)
    expected = [plain.probability(token, other.tolist()) for token in range(vocab_size)]
    np.testing.assert_allclose(np.exp(predicted), expected, rtol=0, atol=1e-10)
    assert match_length == plain.match_length(other.tolist())


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_equals_the_textbook_on_small_arrays(data: st.DataObject) -> None:
    vocab_size = data.draw(st.integers(1, 5))
    tokens = st.integers(0, vocab_size - 1)
    train = np.array(data.draw(st.lists(tokens, min_size=1, max_size=40)))
    other = np.array(data.draw(st.lists(tokens, max_size=15)), dtype=np.int64)
    order = data.draw(st.integers(1, 7))
    assert_equals_plain(train, other, vocab_size, order, data.draw(st.sampled_from(DISCOUNTINGS)))


@pytest.mark.parametrize("discounting", DISCOUNTINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_equals_the_textbook_where_discounts_are_estimated(order: int, discounting: str) -> None:
    train, other = make_text(order, 1500, 12), make_text(order, 1600, 12)[1480:]
    if order > 1:
        # twelve ids have too few counts of counts, longer n-grams have enough.
        assert KneserNey.fit(train, 12, order, discounting).discounts[-1] != FALLBACK_DISCOUNTS[discounting][1:]
    assert_equals_plain(train, other, 12, order, discounting)


@pytest.mark.parametrize("discounting", DISCOUNTINGS)
@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_sums_to_one_for_seen_and_unseen_contexts(order: int, discounting: str) -> None:
    vocab_size = 700
    rng = np.random.default_rng(order)
    train = make_text(1, 20_000, 600)
    model = KneserNey.fit(train, vocab_size, order, discounting)
    starts = rng.integers(0, len(train) - 10, size=20)
    seen = [train[s : s + rng.integers(0, 10)] for s in starts]
    unseen = [rng.integers(0, vocab_size, size=rng.integers(1, 10)) for _ in range(20)]
    for context in [*seen, *unseen, train[-9:]]:
        log_probs, _ = model.predict(context)
        assert np.isfinite(log_probs).all()
        assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_score_and_predict_agree_at_every_position(order: int) -> None:
    text = make_text(2, 6000, 40)
    model = KneserNey.fit(text[:5800], 50, order)
    other = np.concatenate([text[5800:], [45, 49, 45], text[:50]])
    log_probs, match_lengths = model.score(other)
    for i, token in enumerate(other.tolist()):
        predicted, match_length = model.predict(other[:i])
        assert predicted[token] == pytest.approx(log_probs[i], abs=1e-10)
        assert match_length == match_lengths[i]
    assert match_lengths.max() == order - 1


def test_the_training_text_is_matched_in_full() -> None:
    text = make_text(3, 500, 30)
    _, match_lengths = KneserNey.fit(text, 30, 6).score(text)
    np.testing.assert_array_equal(match_lengths, np.minimum(np.arange(500), 5))


def test_later_ids_and_ids_beyond_the_order_change_nothing() -> None:
    text = make_text(4, 3000, 25)
    model = KneserNey.fit(text, 25, 4)
    other = make_text(5, 400, 25)
    np.testing.assert_array_equal(model.log_prob(other)[:200], model.log_prob(other[:200]))
    np.testing.assert_array_equal(model.log_prob(other)[103:], model.log_prob(other[100:])[3:])
    np.testing.assert_array_equal(model.predict(other)[0], model.predict(other[-3:])[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint64])
def test_any_integer_type_gives_the_same_and_stays_unchanged(dtype: type[np.integer]) -> None:
    text = make_text(6, 800, 20)
    ids = text.astype(dtype)
    ids.flags.writeable = False
    model = KneserNey.fit(ids, 20, 5)
    np.testing.assert_array_equal(model.log_prob(ids), KneserNey.fit(text, 20, 5).log_prob(text))
    np.testing.assert_array_equal(model.predict(ids[:9])[0], model.predict(text[:9])[0])


def test_longer_context_helps_and_reaches_the_entropy_of_the_source() -> None:
    vocab_size = 20
    text = make_text(7, 120_000, vocab_size)
    nats = [-KneserNey.fit(text[:100_000], vocab_size, k).log_prob(text[100_000:]).mean() for k in (1, 2, 3)]
    assert nats[0] > nats[1] + 0.05
    assert nats[1] > nats[2] + 0.5
    # the likely id has 0.8 + 0.2 / 20, each other one 0.2 / 20. The mean over 20,000 ids has a standard error
    # of 0.013, and 400 contexts of 250 ids each cost about 19 / (2 * 250) nats of estimation.
    entropy = -0.81 * np.log(0.81) - 19 * 0.01 * np.log(0.01)
    assert abs(nats[2] - entropy) < 3 * 0.013 + 0.04


def test_order_one_is_close_to_the_unigram_control() -> None:
    # at the highest order, here 1, counts are occurrences, so both estimate the same frequencies.
    text = make_text(8, 30_000, 60)
    kneser_ney = -KneserNey.fit(text[:25_000], 60, 1).log_prob(text[25_000:]).mean()
    assert kneser_ney == pytest.approx(Unigram.fit(text[:25_000], 60).nats_per_token(text[25_000:]), abs=1e-3)


@pytest.mark.parametrize("discounting", DISCOUNTINGS)
@pytest.mark.parametrize("ids", [[0], [3, 3], [2] * 500, [0, 1] * 300, list(range(9))])
def test_degenerate_texts_give_finite_distributions(ids: list[int], discounting: str) -> None:
    model = KneserNey.fit(np.array(ids), 9, 8, discounting)
    assert np.isfinite(model.log_prob(np.arange(9))).all()
    for context in (ids, ids[-1:], [8, 8, 8], []):
        log_probs, _ = model.predict(np.array(context, dtype=np.int64))
        assert np.isfinite(log_probs).all()
        assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-9)
    assert len(model.num_ngrams) == min(8, len(ids))


def test_a_repeated_text_is_predicted() -> None:
    log_probs, match_length = KneserNey.fit(np.array([4, 1, 7] * 100), 9, 5).predict(np.array([1, 7, 4, 1]))
    assert log_probs.argmax() == 7
    assert log_probs[7] > np.log(0.9)
    assert match_length == 4


def test_no_ids_have_no_scores() -> None:
    log_probs, match_lengths = KneserNey.fit(make_text(9, 50, 5), 5, 3).score(np.empty(0, dtype=np.int64))
    assert len(log_probs) == len(match_lengths) == 0


def test_discounts_by_hand() -> None:
    # n_1..n_4 = 8, 4, 2, 1, so Y = 8 / 16.
    counts = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4] + [9] * 3)
    modified = [0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2]
    np.testing.assert_allclose(estimate_discounts(counts), modified)
    np.testing.assert_allclose(estimate_discounts(counts, "absolute"), [0, 0.5, 0.5, 0.5])


@settings(deadline=None)
@given(number=st.lists(st.integers(0, 30), min_size=6, max_size=6), discounting=st.sampled_from(DISCOUNTINGS))
def test_discounts_stay_within_their_counts(number: list[int], discounting: str) -> None:
    discounts = estimate_discounts(np.repeat(np.arange(1, 7), number), discounting)
    assert discounts[0] == 0
    assert (discounts[1:] > 0).all()
    assert (discounts[1:] <= [1, 2, 3]).all()


def test_sizes_are_counted() -> None:
    text = make_text(10, 4000, 30)
    model = KneserNey.fit(text, 30, 3)
    windows = np.lib.stride_tricks.sliding_window_view(text, 3)
    assert model.num_ngrams[0] == len(np.unique(text))
    assert model.num_ngrams[2] == len(np.unique(windows, axis=0))
    # key and count of every n-gram, total and weight of every context but those of the last order.
    one, two, three = model.num_ngrams
    assert model.size_bytes == 12 * (one + two + three) + 12 * (1 + one + two) + 3 * 4 * 8 + 30 * 8


def test_default_order() -> None:
    assert [default_order(kind) for kind in ("chars", "bytes", "bpe")] == [8, 8, 5]


def test_an_order_below_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"^order must be at least 1; got 0\.$"):
        KneserNey.fit(np.arange(3), 3, 0)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"^ids must hold at least one id; got none\."):
        KneserNey.fit(np.empty(0, dtype=np.int64), 3, 2)


def test_an_unknown_discounting_is_refused() -> None:
    with pytest.raises(UserError, match=r"^discounting must be one of absolute, modified; got 'modifed'\. Did you"):
        KneserNey.fit(np.arange(3), 3, 2, "modifed")


@pytest.mark.parametrize("vocab_size", [0, -5, 2**31])
def test_an_impossible_vocabulary_is_refused(vocab_size: int) -> None:
    with pytest.raises(UserError, match=rf"^vocab_size must be at least 1 and at most 2147483647; got {vocab_size}\.$"):
        KneserNey.fit(np.arange(3), vocab_size, 2)


@pytest.mark.parametrize("bad", [5, -1, 2**40])
def test_ids_outside_the_vocabulary_are_refused_everywhere(bad: int) -> None:
    ids = np.array([0, 4, bad, 1])
    rule = rf"must be at least 0 and below the vocabulary size 5; got {bad} at position"
    model = KneserNey.fit(np.arange(5), 5, 3)
    with pytest.raises(UserError, match=f"^ids {rule} 2"):
        KneserNey.fit(ids, 5, 2)
    with pytest.raises(UserError, match=f"^ids {rule} 2"):
        model.log_prob(ids)
    with pytest.raises(UserError, match=f"^context {rule} 0"):
        model.predict(ids)


def test_the_package_is_lazy_and_needs_no_torch() -> None:
    code = (
        "import sys, rhapsode.memory; assert 'numpy' not in sys.modules; "
        "rhapsode.memory.KneserNey, rhapsode.memory.Unigram; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_of_the_package_fail() -> None:
    with pytest.raises(AttributeError, match=r"^module 'rhapsode\.memory' has no attribute 'Kneser'"):
        rhapsode.memory.Kneser  # noqa: B018

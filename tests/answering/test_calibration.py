"""Thresholds from the store's own facts."""

import random
from itertools import permutations

import pytest

from answering.conftest import Teach
from rhapsode.answering import AskConfig, ask, calibrate
from rhapsode.answering.calibration import has_own_key, pseudo_question, question_about, score_without
from rhapsode.answering.confidence import load_confidence
from rhapsode.answering.ranking import rank
from rhapsode.answering.view import MemoryView
from rhapsode.answering.word_lists import ATTRIBUTES, make_name
from rhapsode.memory.contracts import Item


def grid(count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    places = sorted({make_name(rng).title() for _ in range(count)})
    pairs = [(f"{attribute} of {place}", make_name(rng).title()) for attribute in ATTRIBUTES for place in places]
    return rng.sample(pairs, count)


def test_few_facts_are_uncalibrated(teach: Teach) -> None:
    config = AskConfig(error_rate=0.05)
    shipped = load_confidence().shipped_threshold(0.05)
    few = calibrate(teach(grid(19)), config=config)
    assert (few.calibrated, few.threshold, few.num_negatives) == (False, shipped, 19)
    enough = calibrate(teach(grid(20)), config=config)
    assert (enough.calibrated, enough.num_negatives) == (True, 20)
    assert enough.threshold >= shipped


def test_a_calibration_is_kept_until_the_store_changes(teach: Teach) -> None:
    store = teach(grid(30))
    first = calibrate(store)
    assert calibrate(store) is first
    assert calibrate(store, config=AskConfig(error_rate=0.1)) is not first
    store.write([Item("A new fact about the zorblatt.")])
    second = calibrate(store)
    assert second is not first
    assert second.num_negatives == 31
    assert calibrate(teach([])).num_negatives == 0


def test_leaving_a_fact_out_equals_never_teaching_it(teach: Teach) -> None:
    facts: list[str | tuple[str, str]] = [*grid(40), "The zorblatt protocol was designed in Lisbon.", "A cat sleeps."]
    whole, config = teach(facts), AskConfig()
    rows = {(row.key, row.text): row for row in whole.sample(100)}
    for i in (0, 7, 25, 40, 41):
        fact = facts[i]
        row = rows[None, fact] if isinstance(fact, str) else rows[fact]
        without = teach([*facts[:i], *facts[i + 1 :]])
        asked = MemoryView(without, "default")
        expected = max((one.confidence for one in rank(asked, question_about(row), config.candidates)), default=0.0)
        assert score_without(MemoryView(whole, "default"), row, config) == pytest.approx(expected, abs=0.02)


def test_stores_whose_facts_are_hard_to_tell_apart_get_a_higher_threshold(teach: Teach) -> None:
    rng = random.Random(0)
    names = ["belr" + "".join(letters) for letters in permutations("amot")]
    alike = calibrate(teach([(name, make_name(rng)) for name in names]), config=AskConfig(error_rate=0.05))
    apart = calibrate(teach(grid(24)), config=AskConfig(error_rate=0.05))
    assert alike.threshold > apart.threshold


def test_the_fabricated_share_stays_below_the_error_rate(teach: Teach) -> None:
    facts = grid(100, seed=1)
    store, config = teach(facts[:50]), AskConfig(error_rate=0.05)
    calibration = calibrate(store, config=config)
    answered = [not ask(store, key, calibration=calibration, config=config).abstained for key, _ in facts[50:]]
    # the promise is for the average over stores; threshold and share each add a deviation of 0.031 here.
    assert sum(answered) / len(answered) < 0.05 + 3 * 0.031 * 2**0.5


def test_how_a_fact_is_asked_for() -> None:
    question = pseudo_question("The zorblatt protocol was designed in Lisbon in 1987. It is old.")
    assert question.terms == ("zorblatt", "protocol", "designed", "lisbon")
    assert pseudo_question("").words == ()
    assert has_own_key("capital", "Lisbon")
    assert not has_own_key("the cat sleeps", "The cat sleeps!")
    assert not has_own_key(None, "Lisbon")
    assert not has_own_key("", "Lisbon")

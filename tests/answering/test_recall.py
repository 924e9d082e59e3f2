"""The figures of what was taught."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answering.conftest import Teach
from rhapsode.answering import evaluate_recall
from rhapsode.answering.question import content_terms
from rhapsode.answering.recall import FORMS, compose_untaught
from rhapsode.answering.word_lists import CITIES, GIVEN_NAMES, JOBS, SURNAMES, THINGS, VERBS, make_name
from rhapsode.errors import UserError
from rhapsode.memory.encoders.words import split_words
from rhapsode.ops.statistics import wilson_interval

KEYS = ["capital of Zorvania", "capital of Krell", "mayor of Krell", "zorblatt", "code of room 412", "Alba Rossi"]


def make_facts(family: str, count: int, seed: int = 0) -> list[tuple[str | None, str]]:
    """Facts of one form, none twice."""
    rng = random.Random(f"{family} {seed}")
    facts: dict[str, tuple[str | None, str]] = {}
    while len(facts) < count:
        name, city, year = make_name(rng), rng.choice(CITIES), rng.randrange(1800, 2030)
        text = f"The {name} {rng.choice(THINGS)} was {rng.choice(VERBS)} in {city} in {year}."
        person = f"{rng.choice(GIVEN_NAMES)} {rng.choice(SURNAMES)}"
        number = rng.randrange(1, 10 * count)
        fact = {
            "nonce": (name, text),
            "keyless": (None, text),
            "capitals": (f"capital of {name.title()}", make_name(rng).title()),
            "people": (person, f"{rng.choice(JOBS)} from {city}"),
            "rooms": (f"code of room {number}", str(rng.randrange(1000, 9999))),
        }[family]
        facts[fact[0] or fact[1]] = fact
    return list(facts.values())


@pytest.mark.parametrize("family", ["keyless", "capitals", "people"])
def test_facts_are_answered_and_others_are_not(teach: Teach, family: str) -> None:
    facts = make_facts(family, 20)
    store = teach([text if key is None else (key, text) for key, text in facts])
    figures = evaluate_recall(store, facts)
    assert figures["recall"] >= 0.99
    assert figures["coverage"] >= 0.99
    # of at most 80 questions, four forms of 20 keys: one key, by chance very like another.
    assert figures["fabricated"] <= 0.05
    forms = ["words"] if family == "keyless" else list(FORMS)
    assert [row["form"] for row in figures["rows"]] == forms
    assert figures["recall_n"] == sum(row["recall_n"] for row in figures["rows"]) == 20 * len(forms)
    assert figures["fabricated_n"] == pytest.approx(20 * len(forms), abs=4)
    low, high = figures["recall_interval"]
    assert low <= figures["recall"] <= high


def test_the_last_text_of_a_key_counts(teach: Teach) -> None:
    store = teach([("zorblatt", "old"), ("quibblex", "a name"), ("zorblatt", "new")])
    figures = evaluate_recall(store, [("zorblatt", "old"), ("quibblex", "a name"), ("zorblatt", "new")])
    assert (figures["facts"], figures["recall"]) == (2, 1.0)


def test_wrong_answers_and_silence_lower_recall(teach: Teach) -> None:
    store = teach([("zorblatt", "a protocol"), ("quibblex", "a bridge")])
    figures = evaluate_recall(store, [("zorblatt", "another text"), ("tellanor", "never taught")])
    assert figures["recall"] == 0.0
    assert figures["coverage"] == 0.5


def test_untaught_keys_can_be_given(teach: Teach) -> None:
    store = teach([("zorblatt", "a protocol"), ("quibblex", "a bridge")])
    figures = evaluate_recall(store, [("zorblatt", "a protocol")], untaught=["quibblex", "mirefall"])
    assert (figures["fabricated"], figures["fabricated_n"]) == (0.5, 2 * len(FORMS))


def test_nothing_taught_is_refused(teach: Teach) -> None:
    with pytest.raises(UserError, match="--file must hold at least one fact; got none"):
        evaluate_recall(teach(["a cat"]), [])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(KEYS), min_size=1, unique=True), st.integers(0, 99))
def test_composed_keys_are_new_and_like_the_others(keys: list[str], seed: int) -> None:
    made = compose_untaught(keys, 5, seed)
    assert len(set(made)) == len(made) <= 5
    assert made == compose_untaught(keys, 5, seed)
    taught = {frozenset(content_terms(split_words(key))) for key in keys}
    lengths = {len(key.split()) for key in keys}
    for key in made:
        assert frozenset(content_terms(split_words(key))) not in taught
        assert len(key.split()) in lengths


def test_composed_keys_are_near_misses() -> None:
    made = compose_untaught([f"code of room {i}" for i in range(100, 140)], 40)
    assert len(made) == 40
    assert sum(key.startswith("code of room ") for key in made) > 10
    assert compose_untaught([], 5) == compose_untaught(["  "], 5) == []


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (0, 10), (10, 10), (3, 7), (990, 1000)])
def test_intervals_hold_the_share(successes: int, count: int) -> None:
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= (successes / count if count else 0) <= high <= 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["nonce", "capitals", "people", "rooms"])
def test_many_facts(teach: Teach, family: str) -> None:
    facts = make_facts(family, 250)
    figures = evaluate_recall(teach([(key or "", text) for key, text in facts]), facts)
    assert figures["recall"] >= 0.99
    assert figures["fabricated"] <= 0.02
    assert figures["calibrated"]
    # a bound for a busy machine: the page has the measured time.
    assert figures["p50_ms"] < 40

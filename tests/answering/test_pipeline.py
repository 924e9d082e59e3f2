"""Asking a store."""

import json
import subprocess
import sys

import pytest

from answering.conftest import Teach
from rhapsode.answering import AskConfig, Calibration, ask
from rhapsode.errors import UserError
from rhapsode.memory.contracts import Item

FACTS = [
    "The zorblatt protocol was designed in Lisbon in 1987.",
    "Mira Okafor keeps the spare key under the blue flowerpot.",
    "The code of room 412 is 7731.",
]
ANSWERED = {
    "Where was the zorblatt protocol designed?": 0,
    "In which city was the zorblatt protocol created?": 0,
    "What do you know about zorblatt?": 0,
    "Where was the zorblat protocol designed?": 0,
    "where does mira okafor keep the spare key": 1,
    "Who keeps the spare key?": 1,
    "What is the code of room 412?": 2,
}
ABSTAINED = [
    "Where was the quibblex protocol designed?",
    "Where was the zorblett protocol designed?",
    "Where does Mira Lindqvist keep the spare key?",
    "Who funds the zorblatt protocol?",
    "What is the code of room 413?",
    "What is the code of locker 412?",
    "What is the capital of France?",
    "Hello, how are you?",
    "Who is it?",
    '"AND (',
    "*",
    "?",
    "NULL\0byte",
]


@pytest.mark.parametrize("question", ANSWERED)
def test_what_was_taught_is_answered_with_its_source(teach: Teach, question: str) -> None:
    store = teach(FACTS)
    answer = ask(store, question)
    assert not answer.abstained
    assert answer.answer == answer.sources[0].text == FACTS[ANSWERED[question]]
    assert [source.used for source in answer.sources] == [True] + [False] * (len(answer.sources) - 1)
    assert store.get([answer.sources[0].id])[0].text == answer.answer
    assert answer.confidence == answer.sources[0].score > answer.threshold
    assert answer.ms > 0


@pytest.mark.parametrize("question", ABSTAINED)
def test_what_was_not_taught_is_not(teach: Teach, question: str) -> None:
    answer = ask(teach(FACTS), question)
    assert answer.abstained
    assert answer.answer is None
    assert not any(source.used for source in answer.sources)


def test_a_key_is_answered_with_its_text(teach: Teach) -> None:
    store = teach([("capital of Zorvania", "Mirefall. It lies by the sea."), ("capital of Krell", "Oskar")])
    assert ask(store, "What is the capital of Zorvania?").answer == "Mirefall. It lies by the sea."
    assert ask(store, "What is the mayor of Zorvania?").abstained
    assert ask(store, "What is the capital of Quibblia?").abstained


def test_a_newer_text_of_a_key_is_the_answer(teach: Teach) -> None:
    store = teach([("capital of Zorvania", "Mirefall")])
    store.write([Item("Oskar", key="capital of Zorvania")])
    answer = ask(store, "capital of Zorvania")
    assert answer.answer == "Oskar"
    assert "Mirefall" not in [source.text for source in answer.sources]


def test_a_sentence_is_cut_out_of_a_paragraph(teach: Teach) -> None:
    store = teach(["It was a long war. The Vallea reactor was built in Cork. Nobody knows why."])
    answer = ask(store, "Where was the Vallea reactor built?")
    assert answer.answer == "The Vallea reactor was built in Cork."
    assert answer.sources[0].text.startswith("It was a long war.")


def test_what_is_forgotten_is_not_answered(teach: Teach) -> None:
    store = teach(FACTS)
    question = "Where was the zorblatt protocol designed?"
    store.forget([ask(store, question).sources[0].id])
    answer = ask(store, question)
    assert answer.abstained
    assert not any("zorblatt" in source.text for source in answer.sources)
    assert json.dumps(answer.as_dict()).count("zorblatt") == 0


def test_answers_equal_those_of_a_store_that_never_held_a_fact(teach: Teach) -> None:
    facts = [f"The {name}{i} stands in hall {i}." for i in range(30) for name in ("vase", "clock")]
    secret = "The zorblatt protocol was designed in Lisbon."
    never, once = teach(facts), teach([*facts[:40], secret, *facts[40:]])
    once.forget([hit.row.id for hit in once.search("zorblatt") if hit.row.text == secret])
    for question in ("Where is the vase17?", "Where is the vase999?", "zorblatt", "clock3 hall"):
        one, other = ask(never, question).as_dict(), ask(once, question).as_dict()
        for answer in (one, other):
            del answer["ms"]
            for source in answer["sources"]:
                del source["id"]
        assert one == other


def test_spaces_do_not_see_each_other(teach: Teach) -> None:
    store = teach(FACTS)
    store.write([Item("The quibblex protocol was designed in Oslo.", space="other")])
    assert ask(store, "Where was the quibblex protocol designed?").abstained
    assert ask(store, "Where was the quibblex protocol designed?", space="other").answer is not None
    with pytest.raises(UserError, match="space must be one of default, other; got 'othr'"):
        ask(store, "zorblatt", space="othr")


LEFT = [
    *(f"The vase{i} stands in hall {i} of the old museum." for i in range(20)),
    "The zorblatt protocol was designed in Lisbon. It is old.",
    "A protocol was designed in Porto, and the zorblatt was built there by the river, long ago.",
    "Mira Okafor keeps the spare key under the blue flowerpot.",
]
# longer, with the words that are asked for, with words that are not left, and nearer to the questions.
OUTSIDE = [
    *(f"The zorblatt protocol number{i} was designed by quibblex " + "and others " * i for i in range(20)),
    "Where was the zorblatt protocol designed? In Oslo.",
    "Mira Lindqvist keeps the spare key in hall 7.",
    *(f"The vase{i} is not in hall {i}." for i in range(5, 15)),
]


def test_a_filter_answers_as_a_store_of_its_rows_alone(teach: Teach) -> None:
    alone, both = teach(LEFT), teach(OUTSIDE[:20])
    both.write([Item(text, metadata={"kind": "left", "year": 1987}) for text in LEFT])
    both.write([Item(text, metadata={"kind": "other", "year": 1987}) for text in OUTSIDE[20:]])
    where = {"kind": "left", "year": 1987}
    for question in (
        "Where was the zorblatt protocol designed?",
        "Where was the quibblex protocol designed?",
        "Where does Mira Lindqvist keep the spare key?",
        "Where is the vase7?",
        "Where is the vase999?",
        "hall 7 of the museum",
        "number3",
        "protocol Lisbon river Porto old",
    ):
        one = ask(alone, question, min_confidence=0.5).as_dict()
        other = ask(both, question, min_confidence=0.5, where=where).as_dict()
        assert {source["text"] for source in other["sources"]} <= set(LEFT)
        for answer in (one, other):
            del answer["ms"]
            for source in answer["sources"]:
                del source["id"]
        assert one == other


def test_a_filter_leaves_the_threshold_that_of_the_space(teach: Teach) -> None:
    store = teach([(f"capital of Land{i:03}", f"City{i:03}") for i in range(120)])
    store.write([Item("Mirefall", key="capital of Zorvania", metadata={"kind": "old"})])
    whole, filtered = (ask(store, "capital of Zorvania", where=where) for where in ({}, {"kind": "old"}))
    assert whole.answer == filtered.answer == "Mirefall"
    assert (whole.threshold, whole.threshold_from) == (filtered.threshold, filtered.threshold_from)
    assert whole.calibrated
    assert len(filtered.sources) == 1


@pytest.mark.parametrize("where", [{"kind": "new"}, {"kind": "old", "year": 1}, {"year": "1987"}, {"city": "Lisbon"}])
def test_a_filter_that_no_memory_meets_abstains(teach: Teach, where: dict[str, object]) -> None:
    store = teach(FACTS)
    store.write([Item(FACTS[0], metadata={"kind": "old", "year": 1987})])
    answer = ask(store, "Where was the zorblatt protocol designed?", where=where)
    assert (answer.abstained, answer.answer, answer.sources, answer.confidence) == (True, None, [], 0.0)


def test_a_filter_reads_newest_texts_only(teach: Teach) -> None:
    store = teach([])
    store.write([Item("Mirefall", key="capital of Zorvania", metadata={"year": 1900})])
    store.write([Item("Oskar", key="capital of Zorvania", metadata={"year": 2000})])
    assert ask(store, "capital of Zorvania", where={"year": 2000}).answer == "Oskar"
    assert ask(store, "capital of Zorvania", where={"year": 1900}).sources == []


def test_an_empty_store_abstains(teach: Teach) -> None:
    answer = ask(teach([]), "zorblatt")
    assert (answer.abstained, answer.sources, answer.confidence) == (True, [], 0.0)


def test_sources_are_at_most_k_and_in_order(teach: Teach) -> None:
    store = teach([f"The bridge number{i} stands in Porto." for i in range(30)])
    for k in (1, 5, 20, 100):
        answer = ask(store, "bridge number7", k=k)
        scores = [source.score for source in answer.sources]
        assert len(scores) <= k
        assert len(scores) >= min(k, 12)
        assert scores == sorted(scores, reverse=True)
        assert answer.sources[0].text == "The bridge number7 stands in Porto."


def test_min_confidence_takes_the_place_of_the_threshold(teach: Teach) -> None:
    store = teach(FACTS)
    question = "Where was the quibblex protocol designed?"
    assert not ask(store, question, min_confidence=0.0).abstained
    assert ask(store, "Where was the zorblatt protocol designed?", min_confidence=1.0).abstained
    assert not ask(store, question, config=AskConfig(min_confidence=0.0)).abstained
    assert ask(store, question, min_confidence=0.9).threshold == 0.9


def test_a_calibration_can_be_given(teach: Teach) -> None:
    answer = ask(teach(FACTS), "zorblatt", calibration=Calibration(0.9999, True, 100, 0.01))
    assert (answer.abstained, answer.threshold, answer.calibrated) == (True, 0.9999, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "  "}, "QUESTION must not be empty; got ''"),
        ({"question": "a", "k": 0}, "--k must be at least 1; got 0"),
        ({"question": "a", "min_confidence": 1.5}, "--min-confidence must lie between 0 and 1; got 1.5"),
        ({"question": "a", "where": {"kind": {1}}}, "where.kind must be JSON; got: Object of type set"),
    ],
)
def test_bad_input_is_refused(teach: Teach, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(teach(FACTS), **arguments)  # type: ignore[arg-type]


def test_asking_does_not_import_torch() -> None:
    code = """
import sys, tempfile
from rhapsode.answering import ask
from rhapsode.memory.contracts import Item
from rhapsode.memory.encoders import StaticEncoder
from rhapsode.memory.store import SQLiteStore
with tempfile.TemporaryDirectory() as folder, SQLiteStore.open(folder, StaticEncoder.train([])) as store:
    store.write([Item("The zorblatt protocol was designed in Lisbon.")])
    print(ask(store, "Where was zorblatt designed?").answer, "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "The zorblatt protocol was designed in Lisbon. False\n"

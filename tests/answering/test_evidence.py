"""Features of a memory for a question."""

from dataclasses import replace

import numpy as np
import pytest

from rhapsode.answering.evidence import FEATURES, Evidence, Passage, gather, with_margins
from rhapsode.answering.question import parse_question
from rhapsode.answering.weights import Term

TEXT = "The zorblatt protocol was designed in Lisbon in 1987."


def evidence(question: str, key: str | None = None, text: str = TEXT, held: str = "") -> Evidence:
    """Compare, with every term of weight 1, and `held` the words that other memories hold."""
    parsed, passage = parse_question(question), Passage.of(key, text)
    known = passage.words.words | set(held.split())
    terms = [Term(word, 1.0, word in known, False) for word in parsed.terms]
    return gather(parsed, passage, terms, True)


def test_features_are_in_order() -> None:
    vector = evidence("Where was the zorblatt protocol designed?").vector()
    assert vector.shape == (len(FEATURES),)
    assert vector[FEATURES.index("coverage")] == 1.0
    assert np.isfinite(vector).all()


def test_a_name_that_was_never_taught_is_missing() -> None:
    taught = evidence("Where was the zorblatt protocol designed?")
    assert (taught.coverage, taught.all_found, taught.worst_missing, taught.unknown_missing) == (1, 1, 0, 0)
    untaught = evidence("Where was the quibblex protocol designed?")
    assert untaught.coverage == pytest.approx(2 / 3)
    assert (untaught.all_found, untaught.worst_missing, untaught.unknown_missing) == (0, 1, 1)


def test_a_word_that_other_memories_hold_is_no_misspelling() -> None:
    unknown = evidence("What is zorblat?")
    assert unknown.fuzzy_gain == pytest.approx(0.85)
    assert unknown.unknown_missing == pytest.approx(0.15)
    known = evidence("What is zorblat?", held="zorblat")
    assert (known.fuzzy_gain, known.known_missing, known.unknown_missing) == (0, 1, 0)


def test_keys() -> None:
    equal = evidence("capital of Zorvania", "Capital of Zorvania", "Mirefall")
    assert (equal.key_equal, equal.key_complete, equal.keyless) == (1, 1, 0)
    inside = evidence("What is the capital of Zorvania?", "capital of Zorvania", "Mirefall")
    assert (inside.key_equal, inside.key_complete) == (0, 1)
    other = evidence("What is the mayor of Zorvania?", "capital of Zorvania", "Mirefall")
    assert (other.key_complete, other.key_partial) == (0, 0.5)
    related = evidence("designer of Zorvania", "creator of Zorvania", "Mira")
    assert related.key_complete == 0


def test_a_key_that_is_the_text_is_no_key() -> None:
    assert evidence("zorblatt", TEXT.lower().rstrip(".")).keyless == 1
    assert evidence("zorblatt", None).keyless == 1


def test_a_word_that_only_a_definition_uses() -> None:
    found = evidence("What is a bank?", "river", "water between two banks")
    assert (found.beyond_key, found.only_name) == (pytest.approx(0.95), 1)
    assert evidence("What is a river?", "river", "water between two banks").only_name == 0


def test_numbers_have_to_be_equal() -> None:
    assert evidence("code of room 413", None, "The code of room 412 is 7731.").number_missing == 1
    assert evidence("code of room 412", None, "The code of room 412 is 7731.").number_missing == 0


def test_neighbours_in_the_question_should_be_neighbours_in_the_memory() -> None:
    assert evidence("velvet orchard", None, "a velvet orchard").together == 1
    assert evidence("velvet orchard", None, "It is velvet and needs a big old orchard").together == 0
    assert evidence("Where was zorblatt designed?").together == 0.5
    assert evidence("velvet", None, "something else").together == 1


def test_margins() -> None:
    question = "the zorblatt protocol"
    own, rival = evidence(question), evidence(question, None, "The protocol is old.")
    passages = [Passage.of(None, TEXT), Passage.of(None, "The protocol is old.")]
    first, second = with_margins([own, rival], passages)
    assert first == replace(own, margin=0.3)
    assert second.margin == pytest.approx(-0.5)
    # the same text twice, or two texts of one key, are no rivals.
    same, _ = with_margins([own, own], [passages[0], passages[0]])
    assert same.margin == 0.3
    keyed = [Passage.of("zorblatt", "one"), Passage.of("Zorblatt", "other")]
    assert with_margins([own, own], keyed)[0].margin == 0.3

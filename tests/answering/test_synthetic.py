"""Worlds that code makes up."""

import random

import pytest

from rhapsode.answering.question import parse_question
from rhapsode.answering.synthetic import FAMILIES, make_world, misspell, near_name
from rhapsode.memory.encoders.words import split_words


def test_a_seed_gives_a_world() -> None:
    sizes = dict.fromkeys(FAMILIES, 5)
    assert make_world(3, sizes) == make_world(3, sizes)
    assert make_world(3, sizes) != make_world(4, sizes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, 40])
def test_each_family_asks_for_what_it_taught_and_for_what_it_did_not(family: str, size: int) -> None:
    world = make_world(size, {family: size})
    assert abs(len(world.facts) - size) <= 1
    taught = [asked for asked in world.asked if asked.fact is not None]
    untaught = [asked for asked in world.asked if asked.fact is None]
    assert all(asked.fact in world.facts for asked in taught)
    assert len(taught) >= len(world.facts)
    assert untaught
    keys = {frozenset(split_words(fact.key)) for fact in world.facts if fact.key}
    assert not any(frozenset(parse_question(asked.question).terms) in keys for asked in untaught)


def test_names_are_changed() -> None:
    rng = random.Random(0)
    for _ in range(100):
        assert near_name(rng, "zorblatt") != "zorblatt"
        assert misspell(rng, "zorblatt")[0] == "z"

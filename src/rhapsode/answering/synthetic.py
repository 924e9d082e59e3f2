"""Facts and questions that code makes up: to fit the confidence, and as questions without an answer.

Every family makes taught facts, questions that they answer, and questions of the same form that nothing answers. Those
are near misses wherever the family allows it: one name, one number or one attribute differs, and what takes its place
occurs elsewhere in the same memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from rhapsode.answering.question import parse_question
from rhapsode.answering.word_lists import (
    ADJECTIVES,
    ATTRIBUTES,
    CITIES,
    COLOURS,
    DAYS,
    GIVEN_NAMES,
    JOBS,
    NOUNS,
    SURNAMES,
    THINGS,
    VERBS,
    make_name,
)
from rhapsode.memory.encoders.words import split_words


@dataclass(frozen=True)
class Fact:
    """What is taught: an optional key, and a text."""

    key: str | None
    text: str


@dataclass(frozen=True)
class Asked:
    """A question, the family it comes from, and which fact answers it; `None` if nothing does."""

    question: str
    fact: Fact | None
    family: str


@dataclass
class World:
    """Facts with questions about them; families add to it."""

    facts: list[Fact] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


Family = Callable[[Random, int, World], None]
KEY_FORMS = ("{}", "{}?", "What is {}?", "What is the {}?", "Tell me about {}.", "Do you know {}?", "What about {}?")
"""How a key is asked for."""


_WORDINGS = (
    ("Please tell me, ", "?"),
    ("Hi! Quick question: ", "?"),
    ("Do you happen to remember ", "?"),
    ("I would like to know ", "."),
    ("", ", please?"),
    ("", " exactly?"),
    ("", " originally?"),
    ("As far as you know, ", "?"),
    ("I forgot: ", "?"),
    ("Can you look up ", " for me?"),
)


_TOLD = (
    (
        "{name} keeps the {thing} under the {place}.",
        ("Where is the {thing}?", "Where does {name} keep the {thing}?", "Who keeps the {thing}?", "Who is {name}?"),
    ),
    (
        "{name} paid {number} euros for the {thing}.",
        ("How much did {name} pay?", "Who paid for the {thing}?", "How much did {name} pay for the {thing}?"),
    ),
    (
        "The {job} {name} comes on {day} at {number}.",
        ("When does {name} come?", "When does the {job} {name} come?", "What day is {name} coming?", "Who is {name}?"),
    ),
)


def make_world(seed: int, sizes: dict[str, int]) -> World:
    """Return a world with about `sizes[family]` facts of each family, and as many questions of either kind.

    Args:
        seed: the same seed gives the same world.
        sizes: names of `FAMILIES` and numbers of facts.
    """
    world = World()
    taught: dict[str, str] = {}
    for name in sizes:
        before = len(world.facts)
        FAMILIES[name](Random(f"{seed} {name}"), sizes[name], world)
        lines = (f"{fact.key or ''} {fact.text}" for fact in world.facts[before:])
        taught[name] = "\n".join(" ".join(split_words(line)) for line in lines)
    world.asked = [a for a in world.asked if a.fact or not _taught_elsewhere(a, taught)]
    rng = Random(f"{seed} wording")
    world.asked = [replace(a, question=reword(rng, a.question)) for a in world.asked]
    Random(f"{seed} order").shuffle(world.asked)
    return world


def invented(rng: Random, size: int, world: World) -> None:
    """The zorblatt protocol was designed in Lisbon in 1987."""
    for _ in range(size):
        name, other, thing = make_name(rng), make_name(rng), rng.choice(THINGS)
        verb, city, year = rng.choice(VERBS), rng.choice(CITIES), rng.randrange(1800, 2030)
        text = f"The {name} {thing} was {verb} in {city} in {year}."
        fact = Fact(name if rng.random() < 0.3 else None, text)
        world.facts.append(fact)
        forms = ["Where was the {} {} {}?", "When was the {} {} {}?", "In which year was the {} {} {}?"]
        forms += ["Who {2} the {0} {1}?", "What is the {} {}?", "What do you know about the {} {}?", "{} {}"]
        forms += ["{}", "What is {}?", "Tell me about {}.", "Where was {0} {2}?", "When was {0} {2}?"]
        form, asked_verb = rng.choice(forms), verb if rng.random() < 0.7 else rng.choice(VERBS)
        asked_name = misspell(rng, name) if rng.random() < 0.15 else name
        _ask(world, "invented", form.format(asked_name, thing, asked_verb), fact)
        _ask(world, "invented", form.format(other, thing, verb), None)
        if rng.random() < 0.3:
            _ask(world, "invented", rng.choice(forms[:3]).format(near_name(rng, name), thing, verb), None)


def attributes(rng: Random, size: int, world: World) -> None:
    """capital of Zorvania -> Mirefall; as a key, or as a sentence."""
    places = [make_name(rng).title() for _ in range(max(2, size // 3))]
    grid = [(attribute, place) for place in places for attribute in rng.sample(ATTRIBUTES, 6)]
    rng.shuffle(grid)
    keyed = rng.random() < 0.6
    for attribute, place in grid[:size]:
        value, key = make_name(rng).title(), f"{attribute} of {place}"
        fact = Fact(key, value) if keyed else Fact(None, f"The {key} is {value}.")
        world.facts.append(fact)
        _ask(world, "attributes", rng.choice(KEY_FORMS).format(key), fact)
    for attribute, place in grid[size : 2 * size]:
        _ask(world, "attributes", rng.choice(KEY_FORMS).format(f"{attribute} of {place}"), None)
    for attribute, _ in grid[: size // 3]:
        place = make_name(rng).title()
        _ask(world, "attributes", rng.choice(KEY_FORMS).format(f"{attribute} of {place}"), None)


def dictionary(rng: Random, size: int, world: World) -> None:
    """A word and its definition, which uses other words: some are taught, some are asked for and are not."""
    words = [
        *{make_name(rng) if rng.random() < 0.5 else rng.choice(NOUNS) + rng.choice(NOUNS) for _ in range(2 * size)}
    ]
    words.sort()
    rng.shuffle(words)
    cut = len(words) // 2
    for word in words[:cut]:
        first, second = rng.choice(words), rng.choice(words)
        text = f"a {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} that a {first} keeps near the {second}"
        fact = Fact(word, text if rng.random() < 0.7 else f"{text}; the {rng.choice(words)} of a {rng.choice(NOUNS)}")
        world.facts.append(fact)
        _ask(world, "dictionary", _define(rng, word), fact)
    for word in words[cut:]:
        _ask(world, "dictionary", _define(rng, word), None)


def people(rng: Random, size: int, world: World) -> None:
    """People who share given names and surnames; keyed by name, or in sentences."""
    width = max(3, int(2 * size**0.5))
    given, surnames = (
        rng.sample(GIVEN_NAMES, min(width, len(GIVEN_NAMES))),
        rng.sample(SURNAMES, min(width, len(SURNAMES))),
    )
    given += [make_name(rng).title() for _ in range(width - len(given))]
    surnames += [make_name(rng).title() for _ in range(width - len(surnames))]
    names = [f"{first} {last}" for first in given for last in surnames]
    rng.shuffle(names)
    keyed = rng.random() < 0.5
    asked_for = (("{} was born in {}.", "Where was {} born?"), ("{} works as a {}.", "What does {} work as?"))
    for name in names[:size]:
        kind = rng.randrange(2)
        value = rng.choice(JOBS if kind else CITIES)
        sentence, question = asked_for[kind]
        fact = Fact(name, value) if keyed else Fact(None, sentence.format(name, value))
        world.facts.append(fact)
        _ask(
            world,
            "people",
            rng.choice(["{}", "Who is {}?", question if not keyed else "What about {}?"]).format(name),
            fact,
        )
        if not keyed and rng.random() < 0.3:
            _ask(world, "people", asked_for[1 - kind][1].format(name), None)
    for name in names[size : 2 * size]:
        _ask(world, "people", rng.choice(["{}", "Who is {}?", "Where was {} born?"]).format(name), None)


def numbers(rng: Random, size: int, world: World) -> None:
    """The code of room 412; rooms beside it are asked for and were not taught."""
    what, where = rng.choice(("code", "price", "owner", "size")), rng.choice(("room", "order", "locker", "part"))
    pool = [str(number) for number in rng.sample(range(10, 10 + 6 * size), 2 * size)]
    if rng.random() < 0.4:
        pool = [f"{rng.choice('ABCDXZ')}-{number}" for number in pool]
    keyed = rng.random() < 0.6
    for number in pool[:size]:
        key, value = f"{what} of {where} {number}", str(rng.randrange(1000, 9999))
        fact = Fact(key, value) if keyed else Fact(None, f"The {key} is {value}.")
        world.facts.append(fact)
        _ask(world, "numbers", rng.choice(KEY_FORMS).format(key), fact)
    for number in pool[size:]:
        _ask(world, "numbers", rng.choice(KEY_FORMS).format(f"{what} of {where} {number}"), None)


def titles(rng: Random, size: int, world: World) -> None:
    """The Silver Harbour: titles of two words that occur in other titles as well."""
    pool = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    chosen = rng.sample(pool, min(2 * size, len(pool)))
    cut = len(chosen) // 2
    for title in chosen[:cut]:
        article = rng.choice(("The ", ""))
        text = f"a {rng.choice(ADJECTIVES)} story about a {rng.choice(JOBS)} from {rng.choice(CITIES)}"
        fact = Fact(article + title, text)
        world.facts.append(fact)
        _ask(world, "titles", rng.choice(KEY_FORMS).format(article + title), fact)
    for title in chosen[cut:]:
        _ask(world, "titles", rng.choice(KEY_FORMS).format(title), None)


def paragraphs(rng: Random, size: int, world: World) -> None:
    """Several sentences about one thing, as files are cut; one of them answers."""
    for _ in range(size):
        name, maker, thing = make_name(rng).title(), make_name(rng).title(), rng.choice(THINGS)
        city, other = rng.sample(CITIES, 2)
        sentences = [
            f"The {name} {thing} was {rng.choice(VERBS)} by {maker} in {city}.",
            f"It is {rng.choice(ADJECTIVES)} and needs a {rng.choice(NOUNS)}.",
            f"Since {rng.randrange(1900, 2020)} every {rng.choice(JOBS)} in {other} owns one.",
        ]
        fact = Fact(None, " ".join(sentences))
        world.facts.append(fact)
        forms = ["Where was the {} {} made?", "Who made the {} {}?", "Tell me about the {} {}.", "{} {}"]
        form = rng.choice(forms)
        _ask(world, "paragraphs", form.format(name, thing), fact)
        _ask(world, "paragraphs", form.format(make_name(rng).title(), thing), None)


def household(rng: Random, size: int, world: World) -> None:
    """Mira Okafor keeps the broken kettle under the blue bucket: what a person would tell, and ask for in pieces."""
    names = [f"{first} {last}" for first in GIVEN_NAMES for last in SURNAMES]
    things = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    size = min(size, len(names) // 2, len(things) // 2)
    names, things = rng.sample(names, 2 * size), rng.sample(things, 2 * size)
    for i in range(size):
        slots = {"name": names[i], "thing": things[i], "number": str(rng.randrange(100, 999))}
        slots |= {
            "place": f"{rng.choice(COLOURS)} {rng.choice(NOUNS)}",
            "day": rng.choice(DAYS),
            "job": rng.choice(JOBS),
        }
        text, questions = rng.choice(_TOLD)
        fact = Fact(None, text.format(**slots))
        world.facts.append(fact)
        _ask(world, "household", rng.choice(questions).format(**slots), fact)
        # somebody else, who may be nobody; something else; a part of the name right, the other wrong.
        first, last = names[i].split()
        stranger = rng.choice(
            (names[size + i], f"{first} {make_name(rng).title()}", f"{make_name(rng).title()} {last}")
        )
        about_name, about_thing = [q for q in questions if "name" in q], [q for q in questions if "name" not in q]
        wrong = rng.choice(about_name).format(**{**slots, "name": stranger})
        if about_thing and rng.random() < 0.4:
            wrong = rng.choice(about_thing).format(**{**slots, "thing": things[size + i]})
        _ask(world, "household", wrong, None)


FAMILIES: dict[str, Family] = {
    "invented": invented,
    "attributes": attributes,
    "dictionary": dictionary,
    "people": people,
    "numbers": numbers,
    "titles": titles,
    "paragraphs": paragraphs,
    "household": household,
}


def misspell(rng: Random, word: str) -> str:
    """Return `word` with one letter left out, doubled, or swapped with its neighbour, never the first."""
    place = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:place] + word[place + 1 :]
    if kind == 1:
        return word[:place] + word[place] + word[place:]
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def reword(rng: Random, question: str) -> str:
    """Return the question as it is, in other letters, or with words around it that ask for nothing."""
    kind = rng.random()
    if kind < 0.7:
        return question
    if kind < 0.8:
        return rng.choice((question.lower(), question.upper(), question.rstrip("?.")))
    before, after = rng.choice(_WORDINGS)
    return before + (question[:1].lower() + question[1:] if before else question).rstrip("?.") + after


def near_name(rng: Random, name: str) -> str:
    """Return another name that begins like `name`, or has one other letter."""
    while True:
        place = rng.randrange(1, len(name))
        if rng.random() < 0.3:
            other = name[:place] + rng.choice("aeiouklmnrst") + name[place + 1 :]
        else:
            other = name[: len(name) // 2] + make_name(rng)[-len(name) // 2 :]
        if other != name and not other.startswith(name) and not name.startswith(other):
            return other


def _taught_elsewhere(asked: Asked, taught: Mapping[str, str]) -> bool:
    """Return whether another family teaches what this one leaves out: the question has an answer then."""
    terms = " ".join(parse_question(asked.question).terms)
    return any(terms in text for family, text in taught.items() if family != asked.family)


def _define(rng: Random, word: str) -> str:
    forms = ("{}", "What is a {}?", "What does {} mean?", "Define {}.", "What is the meaning of {}?")
    return rng.choice(forms).format(word)


def _ask(world: World, family: str, question: str, fact: Fact | None) -> None:
    world.asked.append(Asked(question, fact, family))

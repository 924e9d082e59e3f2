"""How much of what was taught is answered, and how much that was never taught is answered all the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any

from rhapsode.answering.calibration import calibrate, has_own_key, pseudo_question
from rhapsode.answering.config import AskConfig
from rhapsode.answering.contracts import Memories
from rhapsode.answering.pipeline import Answer, ask
from rhapsode.answering.question import content_terms
from rhapsode.errors import UserError
from rhapsode.memory.encoders.words import split_words
from rhapsode.ops.statistics import proportion

FORMS = {"key": "{}", "what is": "What is {}?", "what is the": "What is the {}?", "tell me about": "Tell me about {}."}
"""How a key is asked for. A fact without a key is asked for by its words; see `calibration`."""
_TRIES = 200


@dataclass(frozen=True)
class _Asked:
    form: str
    question: str
    text: str | None
    key: str
    """What the question is about."""


def evaluate_recall(
    store: Memories,
    facts: Sequence[tuple[str | None, str]],
    *,
    untaught: Sequence[str] | None = None,
    space: str = "default",
    seed: int = 0,
    config: AskConfig | None = None,
) -> dict[str, Any]:
    """Ask for every fact in every form, and for as many that were never taught.

    Args:
        facts: key (or `None`) and text, all of which the store holds; of two with one key the last one counts.
        untaught: keys that were never taught; default: `compose_untaught`.
        seed: of what is composed.

    Returns:
        `recall` (share of taught questions answered with the right text), `fabricated` (share of the others that are
        answered), `coverage` (share of taught questions answered at all), each with `_interval` (95 %, over keys)
        and `n`; `p50_ms` of a question, calibration not counted; `threshold`, `calibrated`; and `rows`, the same
        for each form.

    Raises:
        UserError: if there is no fact.
    """
    config = config or AskConfig()
    taught = _taught(facts)
    if not taught:
        raise UserError("--file must hold at least one fact; got none. Write lines of key TAB text.")
    keys = [key for key, _ in taught if key is not None]
    if untaught is None:
        untaught = compose_untaught(keys, len(keys), seed)
    calibration = calibrate(store, space, config)
    questions = [*_questions(taught), *_never(untaught)]
    if not keys:
        questions += _without_a_name(taught, seed)
    answers = [ask(store, one.question, space=space, calibration=calibration, config=config) for one in questions]
    rows = [
        {"form": form, **_figures([(q, a) for q, a in zip(questions, answers, strict=True) if q.form == form])}
        for form in dict.fromkeys(one.form for one in questions)
    ]
    everything = _figures(list(zip(questions, answers, strict=True)))
    return {
        **everything,
        "threshold": calibration.threshold,
        "calibrated": calibration.calibrated,
        "facts": len(taught),
        "rows": rows,
    }


def compose_untaught(keys: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Make keys of the same form as `keys` that are not among them, each with parts that other keys have.

    In a key of several words one word is swapped for that in the same place of another key, so that every word is known
    and only their combination is not. A key of one word, or one whose swaps are all taught, gets the beginning of one
    word and the end of another. No result has the same terms as a key, in whatever order.

    Returns:
        up to `count` different keys; fewer only if the keys allow no more.
    """
    rng = Random(seed)
    split = [key.split() for key in keys if key.split()]
    taught = {_terms(key) for key in keys}
    made: dict[str, None] = {}
    failures = 0
    while split and len(made) < count and failures < _TRIES:
        failures += 1
        words = list(rng.choice(split))
        places = [i for i, word in enumerate(words) if set(split_words(word)) & set(_terms(" ".join(words)))]
        if not places:
            continue
        place = rng.choice(places)
        others = rng.choice(split)
        swap = len(words) > 1 and len(others) == len(words) and rng.random() < 0.75
        words[place] = others[place] if swap else _splice(words[place], rng.choice(others), rng)
        key = " ".join(words)
        if _terms(key) not in taught and key not in made:
            made[key] = None
            failures = 0
    return list(made)


def _taught(facts: Iterable[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    newest: dict[object, tuple[str | None, str]] = {}
    for key, text in facts:
        newest[tuple(split_words(key)) if key else text] = (key if has_own_key(key, text) else None, text)
    return list(newest.values())


def _questions(taught: Sequence[tuple[str | None, str]]) -> list[_Asked]:
    asked = []
    for key, text in taught:
        if key is None:
            asked.append(_Asked("words", " ".join(pseudo_question(text).words), text, text))
        else:
            asked += [_Asked(form, pattern.format(key), text, key) for form, pattern in FORMS.items()]
    return asked


def _never(untaught: Sequence[str]) -> list[_Asked]:
    return [_Asked(form, pattern.format(key), None, key) for key in untaught for form, pattern in FORMS.items()]


def _without_a_name(taught: Sequence[tuple[str | None, str]], seed: int) -> list[_Asked]:
    """Ask for facts without a key, the rarest word of each exchanged for one that no fact has."""
    rng = Random(seed)
    known = Counter(word for _, text in taught for word in set(split_words(text)))
    questions = [question for _, text in taught if (question := pseudo_question(text)).terms]
    rarest = [min(question.terms, key=lambda word: (known[word], word)) for question in questions]
    asked = []
    for question, rare in zip(questions, rarest, strict=True):
        made = (_splice(rare, rng.choice(rarest), rng) for _ in range(_TRIES))
        strange = next((word for word in made if word not in known), None)
        if strange is not None:
            words = [strange if word == rare else word for word in question.words]
            asked.append(_Asked("words", " ".join(words), None, " ".join(words)))
    return asked


def _figures(answered: Sequence[tuple[_Asked, Answer]]) -> dict[str, Any]:
    known = [(asked, answer) for asked, answer in answered if asked.text is not None]
    unknown = [(asked, answer) for asked, answer in answered if asked.text is None]
    right = [not answer.abstained and answer.sources[0].text == asked.text for asked, answer in known]
    known_keys, unknown_keys = ([asked.key for asked, _ in part] for part in (known, unknown))
    return {
        **_share("recall", right, known_keys),
        **_share("fabricated", [not answer.abstained for _, answer in unknown], unknown_keys),
        **_share("coverage", [not answer.abstained for _, answer in known], known_keys),
        "p50_ms": round(median(answer.ms for _, answer in answered), 3),
    }


def _share(name: str, counted: Sequence[bool], keys: Sequence[str]) -> dict[str, Any]:
    """Questions about one key are alike, so the interval is over keys."""
    found = proportion(counted, keys)
    low, high = found["interval"] or (0.0, 1.0)
    share = None if found["value"] is None else round(found["value"], 5)
    return {name: share, f"{name}_interval": [round(low, 5), round(high, 5)], f"{name}_n": found["n"]}


def _terms(key: str) -> frozenset[str]:
    return frozenset(content_terms(split_words(key)))


def _splice(first: str, second: str, rng: Random) -> str:
    if first.isdigit():
        return "".join(rng.choice("0123456789") for _ in first)
    beginning, end = first[: max(1, len(first) // 2)], second[len(second) // 2 :]
    # a digit more keeps numbered names numbered.
    return beginning + end

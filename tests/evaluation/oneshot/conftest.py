"""A tiny dictionary in WordNet's format, of invented words with some structure to learn."""

from pathlib import Path

import numpy as np
import pytest

from rhapsode.evaluation.oneshot.task import nonce_words

NUM_THINGS = 60


def sense_line(offset: int, letter: str, lemmas: list[str], gloss: str) -> str:
    words = " ".join(f"{lemma.replace(' ', '_')} 0" for lemma in lemmas)
    return f"{offset:08d} 05 {letter} {len(lemmas):02x} {words} 001 @ 00001740 {letter} 0000 | {gloss}  \n"


def write_dictionary(folder: Path, seed: int = 0) -> Path:
    """Write nouns and verbs of a few topics: a gloss and its sentences share topic words, as in the real one."""
    random = np.random.default_rng(seed)
    names = nonce_words(random, NUM_THINGS * 2 + 80)
    topics = np.array(names[:80]).reshape(10, 8)
    licence = "  1 This is the licence, which every file begins with.  \n"
    parts: dict[str, list[str]] = {"noun": [licence], "verb": [licence], "adj": [licence], "adv": [licence]}
    for number, lemma in enumerate(names[80:]):
        topic = topics[number % len(topics)]
        words = [" ".join(random.choice(topic, 3, replace=False)) for _ in range(4)]
        if number % 2:
            gloss = (
                f'to {words[0]}; "they {lemma}ed {words[1]}"; "she {lemma}s the {words[2]}"; "to {lemma} {words[3]}"'
            )
            parts["verb"].append(sense_line(number + 100, "v", [lemma], gloss))
        else:
            gloss = (
                f'a {words[0]}; "the {lemma} of {words[1]}"; "two {lemma}s with {words[2]}"; "a {lemma}, {words[3]}"'
            )
            parts["noun"].append(sense_line(number + 100, "n", [lemma], gloss))
    folder.mkdir(parents=True)
    for part, lines in parts.items():
        (folder / f"data.{part}").write_text("".join(lines))
        (folder / f"{part}.exc").write_text("")
    return folder


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    return write_dictionary(tmp_path_factory.mktemp("wordnet") / "dict")

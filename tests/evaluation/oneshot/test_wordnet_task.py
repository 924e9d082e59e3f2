"""The honest task is honest: nothing of a tested word can be learnt from, or is shown where it is blanked."""

from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.evaluation.oneshot.lexical import words_of
from rhapsode.evaluation.oneshot.wordnet import WordNet, inflections, read_wordnet
from rhapsode.evaluation.oneshot.wordnet_task import (
    BLANK,
    VARIANTS,
    HonestTask,
    WordNetConfig,
    inflect_like,
    make_wordnet_task,
    mark,
)


@pytest.fixture(scope="module")
def wordnet(dictionary: Path) -> WordNet:
    return read_wordnet(dictionary)


@pytest.fixture(scope="module")
def task(wordnet: WordNet) -> HonestTask:
    return make_wordnet_task(wordnet, WordNetConfig(), 0)


def test_splits_are_by_sense_and_of_the_sizes_asked_for(task: HonestTask) -> None:
    sizes = [len(task.indices(split)) for split in ("test", "validation", "train")]
    assert sum(sizes) == len(task.words) == 120
    assert sizes == [72, 30, 18]
    senses = [{task.words[i].sense for i in task.indices(split)} for split in ("test", "validation", "train")]
    assert sum(map(len, senses)) == len(set.union(*senses))


def test_nothing_of_a_held_word_is_in_the_corpus(task: HonestTask) -> None:
    held = {word.lemma for word in task.words if word.split != "train"}
    sentences = {usage.fill(usage.forms) for word in task.words if word.split != "train" for usage in word.usages}
    assert len(task.corpus) == 18
    for sense in task.corpus:
        assert not held & set(sense.lemmas)
        assert not sentences & set(sense.usages)


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_a_blanked_task_shows_the_word_nowhere(task: HonestTask, shots: int) -> None:
    entries = task.entries("blanked", shots)
    targets, queries = task.queries("blanked", shots, "test")
    shown = [(i, e.plain, e.gloss, *e.usages) for i, e in enumerate(entries)]
    shown += [(i, q.plain, q.text) for i, q in zip(targets, queries, strict=True)]
    for i, *texts in shown:
        forms = {form for parts in inflections(task.words[i].lemma, {}) for form in parts}
        assert not forms & {word for text in texts for word in words_of(text)}
    assert all(entry.name is None for entry in entries)
    assert all(query.word is None and BLANK in query.text for query in queries)


@pytest.mark.parametrize("shots", [0, 1, 2])
def test_what_is_asked_was_never_taught(task: HonestTask, shots: int) -> None:
    entries = task.entries("visible", shots)
    targets, queries = task.queries("visible", shots, "test")
    # three sentences a word: one or two are left to ask about.
    assert len(queries) == 72 * (1 if shots == 2 else 2)
    for target, query in zip(targets, queries, strict=True):
        assert len(entries[target].usages) == shots
        assert query.text not in entries[target].usages


def test_a_nonce_stands_for_its_word_everywhere_and_is_inflected(task: HonestTask) -> None:
    entries = task.entries("nonce", 1)
    targets, queries = task.queries("nonce", 1, "test")
    assert len({word.nonce for word in task.words}) == len(task.words)
    for target, query in zip(targets, queries, strict=True):
        word = task.words[target]
        assert entries[target].name == word.nonce
        assert query.word is not None
        assert query.word.startswith(word.nonce)
        assert query.word in query.plain
        assert word.lemma not in query.plain + entries[target].plain
    assert inflect_like("carry", "Carried", "zorb") == "zorb"


def test_all_variants_ask_the_same(task: HonestTask) -> None:
    asked = [task.queries(variant, 1, "test") for variant in VARIANTS]
    assert asked[0][0] == asked[1][0] == asked[2][0]
    assert [q.text for q in asked[0][1]] == [q.text for q in asked[1][1]]


def test_further_words_are_others(task: HonestTask) -> None:
    further = task.further_entries(10)
    names = {entry.name for entry in further}
    assert len(names) == len(further)
    assert not names & {word.lemma for word in task.words}


def test_marks_fill_back_to_the_text() -> None:
    text = "Zorbs zorb; a zorbing zorbster."
    marked = mark(text, inflections("zorb", {}))
    assert marked.forms == ("Zorbs", "zorb", "zorbing")
    assert marked.fill(marked.forms) == text
    assert marked.blanked == f"{BLANK} {BLANK}; a {BLANK} zorbster."


def test_a_small_task_is_a_part_of_the_whole(wordnet: WordNet) -> None:
    small = make_wordnet_task(wordnet, WordNetConfig(max_words=30, max_corpus=5), 0)
    assert len(small.words) == 30
    assert len(small.corpus) == 5
    assert make_wordnet_task(wordnet, WordNetConfig(max_words=30), 0).words == small.words


def test_too_few_words_are_told(wordnet: WordNet) -> None:
    with pytest.raises(UserError, match="--wordnet must have 20 words with two sentences in one sense; got 3"):
        make_wordnet_task(WordNet(wordnet.senses[:3], {}))

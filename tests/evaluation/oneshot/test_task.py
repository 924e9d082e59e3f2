"""The replica is the document's task: what every story holds, how many there are, and that seeds repeat."""

from collections import Counter

from rhapsode.evaluation.oneshot.simple import BagOfWords
from rhapsode.evaluation.oneshot.task import TaskConfig, make_task


def test_the_default_has_the_items_that_the_comparison_needs() -> None:
    tasks = [make_task(seed) for seed in range(5)]
    once = [(seed, word) for seed, task in enumerate(tasks) for word, n in task.num_stories.items() if n == 1]
    items = [(seed, s.word) for seed, task in enumerate(tasks) for s in task.test if task.num_stories[s.word] == 1]
    assert len(once) >= 100
    assert len(items) >= 500
    assert set(tasks[0].num_stories.values()) == {1, 2, 3, 4, 5}


def test_every_story_holds_its_word_definition_and_usage() -> None:
    task = make_task(3)
    for story in [*task.train, *task.test, *task.more, *task.untaught]:
        assert story.word in story.text.split()
        assert story.definition in story.text
        assert story.usage in story.text
        assert len(story.text.split()) == 1 + 3 + 3 + 6
    assert Counter(story.word for story in task.train) == task.num_stories
    groups = [{story.word for story in part} for part in (task.train, task.more, task.untaught)]
    assert sum(len(group) for group in groups) == len(set.union(*groups))


def test_equal_seeds_give_equal_tasks() -> None:
    assert make_task(1) == make_task(1)
    assert make_task(1).train != make_task(2).train


def test_a_bag_of_words_solves_it() -> None:
    task = make_task(0, TaskConfig(filler_words=4))
    method = BagOfWords()
    method.teach(task.train)
    assert method.answer([s.text for s in task.test]).words == [s.word for s in task.test]

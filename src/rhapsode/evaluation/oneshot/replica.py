"""The replica of the document's comparison: every preset and control on the same tasks, measured alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhapsode.evaluation.oneshot.contracts import Answers, Counters, Method, Story
from rhapsode.evaluation.oneshot.metrics import abstention
from rhapsode.evaluation.oneshot.presets import Preset, choose_presets
from rhapsode.evaluation.oneshot.simple import BagOfWords, LexicalMemory, Majority, RandomNearest
from rhapsode.evaluation.oneshot.task import Task, TaskConfig, make_task
from rhapsode.memory.policies import Policies
from rhapsode.ops.statistics import proportion

DEFAULT_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Outcome:
    """What one method did on one task, query by query: at first, after maintenance, and after more words."""

    seed: int
    answers: Answers
    maintained: Answers
    after: Answers
    untaught: Answers
    counters: Counters
    seconds: float


def run_oneshot(
    presets: Mapping[str, Preset] | str = "all",
    seeds: Sequence[int] = DEFAULT_SEEDS,
    task: TaskConfig | None = None,
    *,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Run presets, and with named ones always the two controls, on one replica for each seed.

    Args:
        presets: by name, or a comma-separated list of names, or `all`.
        seeds: of the tasks and of whatever a method draws.
        task: sizes of the replica.
        workers: threads that run seeds side by side, each with one core; figures do not depend on it.
        progress: is told a sentence after every preset, with its cost.

    Returns:
        one row a preset: `preset`; each with `value`, `n`, `interval`: `one_shot` (words with one story), `all_shots`,
        `hit_rate` (the nearest memory is of the right word), `retention` (of the answers that were right, those that
        still are after more words), `retention_maintained` (after consolidation and forgetting); then
        `mean_similarity` (the document's hit rate), `mean_gate`, `written`, `deleted`, `seconds`, `steps`,
        `lifecycle`, `abstention`, `policies`.

    Raises:
        UserError: if a preset is unknown.
    """
    chosen = choose_presets(presets) if isinstance(presets, str) else presets
    tasks = {seed: make_task(seed, task) for seed in seeds}
    rows = []
    with ThreadPoolExecutor(workers, initializer=_take_one_core) as pool:
        for name, preset in chosen.items():
            outcomes = pool.map(lambda seed, preset=preset: run_preset(preset, tasks[seed], seed), seeds)
            rows.append(summarise(name, preset, tasks, list(outcomes)))
            if progress is not None:
                steps = rows[-1]["steps"]
                cost = f"{rows[-1]['seconds']:.1f} s of training" + (f" in {steps:,} steps" if steps else "")
                progress(f"{name}: {cost} for {len(tasks)} seeds")
    return rows


def run_preset(preset: Preset, task: Task, seed: int) -> Outcome:
    """Teach one method one task and ask; ask the same again after maintenance, and after more words."""
    method = build_method(preset, task, seed)
    queries = [story.text for story in task.test]
    began = time.perf_counter()
    method.teach(task.train)
    seconds = time.perf_counter() - began
    answers = method.answer(queries)
    untaught = method.answer([story.text for story in task.untaught])
    counters = Counters(method.counters.written, method.counters.deleted, dict(method.counters.extra))
    method.maintain()
    maintained = method.answer(queries)
    if task.more:
        method.teach(task.more)
    return Outcome(seed, answers, maintained, method.answer(queries), untaught, counters, seconds)


def _take_one_core() -> None:
    # small products lose more by a second thread than they gain.
    import torch

    torch.set_num_threads(1)


def build_method(preset: Preset, task: Task, seed: int) -> Method:
    """Make the method of a preset, knowing nothing of the task but its vocabulary."""
    if preset.method == "trained":
        from rhapsode.evaluation.oneshot.trained import Trained

        stories = [*task.train, *task.more, *task.test, *task.untaught]
        labels = [story.word for story in (*task.train, *task.more)]
        return Trained(preset, [story.text for story in stories], labels, seed)
    if preset.method == "random_nearest":
        return RandomNearest(preset.policies or Policies(), seed)
    if preset.method == "lexical":
        return LexicalMemory()
    if preset.method == "bag_of_words":
        return BagOfWords()
    return Majority()


def summarise(name: str, preset: Preset, tasks: Mapping[int, Task], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Turn the outcomes of one method into its row; the same function for every method."""
    tests = [(outcome, story) for outcome in outcomes for story in tasks[outcome.seed].test]
    seeds = np.array([outcome.seed for outcome, _ in tests])
    words = np.array([f"{outcome.seed} {story.word}" for outcome, story in tests])
    once = np.array([tasks[outcome.seed].num_stories[story.word] == 1 for outcome, story in tests])
    right = np.concatenate([_right(outcome.answers.words, tasks[outcome.seed].test) for outcome in outcomes])
    after = np.concatenate([_right(outcome.after.words, tasks[outcome.seed].test) for outcome in outcomes])
    maintained = [_right(outcome.maintained.words, tasks[outcome.seed].test) for outcome in outcomes]

    def share(correct: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        return proportion(correct[chosen], words[chosen].tolist(), seeds[chosen].tolist())

    everything = np.ones(len(right), dtype=bool)
    row: dict[str, Any] = {"preset": name, "one_shot": share(right, once), "all_shots": share(right, everything)}
    if all(outcome.answers.memory_words is not None for outcome in outcomes):
        hits = [_right(outcome.answers.memory_words or [], tasks[outcome.seed].test) for outcome in outcomes]
        row["hit_rate"] = share(np.concatenate(hits), everything)
    else:
        row["hit_rate"] = {"value": None, "n": 0, "interval": None}
    # of the answers that were right, those that still are.
    row["retention"] = share(after, right)
    row["retention_maintained"] = share(np.concatenate(maintained), right)
    row["one_shot_after"] = share(after, once)
    row["mean_similarity"] = _mean([outcome.answers.similarity for outcome in outcomes])
    row["mean_gate"] = _mean([outcome.answers.gates for outcome in outcomes])
    row["written"] = float(np.mean([outcome.counters.written for outcome in outcomes]))
    row["deleted"] = float(np.mean([outcome.counters.deleted for outcome in outcomes]))
    row["seconds"] = float(np.sum([outcome.seconds for outcome in outcomes]))
    extras = [outcome.counters.extra for outcome in outcomes]
    row["steps"] = sum(extra.get("steps", 0) for extra in extras)
    row["lifecycle"] = {
        name: float(np.mean([extra[name] for extra in extras])) for name in extras[0] if name not in ("steps",)
    }
    row["abstention"] = _abstention(tasks, outcomes)
    row["policies"] = preset.model_dump(mode="json", exclude={"summary"})
    return row


def _abstention(tasks: Mapping[int, Task], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean over the seeds: confidences of two trainings cannot be compared."""
    rows = []
    for outcome in outcomes:
        task = tasks[outcome.seed]
        # half of the untaught words calibrate, the other half is judged.
        names = list(dict.fromkeys(story.word for story in task.untaught))
        judged = np.array([names.index(story.word) % 2 == 1 for story in task.untaught])
        untaught = outcome.untaught.confidence
        right = _right(outcome.answers.words, task.test)
        rows.append(abstention(outcome.answers.confidence, right, untaught[judged], untaught[~judged]))
    names = list(rows[0])
    return {
        name: _mean([np.array([row[name]]) if row[name] is not None else None for row in rows], skip=True)
        for name in names
    }


def _right(words: Sequence[str], stories: Sequence[Story]) -> np.ndarray:
    return np.array([word == story.word for word, story in zip(words, stories, strict=True)], dtype=bool)


def _mean(parts: Sequence[np.ndarray | None], *, skip: bool = False) -> float | None:
    present = [part for part in parts if part is not None]
    if not present or (len(present) < len(parts) and not skip):
        return None
    return float(np.concatenate(present).mean())

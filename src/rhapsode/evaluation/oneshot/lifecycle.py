"""What happens to memories every few iterations: consolidation into the weights, and forgetting."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rhapsode.evaluation.oneshot.contracts import Story
from rhapsode.evaluation.oneshot.learner import Learner, Remembered
from rhapsode.evaluation.oneshot.presets import TrainingConfig

TEMPLATES = ("{word} means {definition}", "{definition} is {word}", "{word} {definition}", "{usage}")
TUNING_STEPS = 20
# other memories that a verified consolidation must not hurt.
_CHECKED = 64


@dataclass
class LifecycleCounts:
    """How many entries were consolidated and removed, kept because the check failed, or forgotten."""

    consolidated: int = 0
    kept_by_check: int = 0
    forgotten: int = 0


def synthetic_stories(remembered: Remembered) -> list[Story]:
    """Return sentences about a word made from its stored definition and usage."""
    story = remembered.story
    parts = {"word": story.word, "definition": story.definition, "usage": story.usage}
    return [Story(t.format(**parts), story.word, story.definition, story.usage) for t in TEMPLATES]


def run_lifecycle(
    learner: Learner, config: TrainingConfig, random: np.random.Generator, *, tuning_steps: int = TUNING_STEPS
) -> LifecycleCounts:
    """Consolidate, then forget, as the learner's policies say."""
    counts = LifecycleCounts()
    memory, policies = learner.memory, learner.policies
    tuning = config.model_copy(update={"steps": tuning_steps, "optimizer": "adam", "learning_rate": 1e-4})
    if memory is None:
        return counts
    if policies.consolidate != "off":
        sure = memory.column("id")[memory.column("confidence") > policies.consolidate_above].tolist()
        removed = _consolidate(learner, sure, tuning, random) if sure else []
        memory.forget(removed)
        counts.consolidated, counts.kept_by_check = len(removed), len(sure) - len(removed)
    counts.forgotten = len(memory.forget_useless(policies.forget, policies.forget_below))
    return counts


def _consolidate(
    learner: Learner, ids: Sequence[int], tuning: TrainingConfig, random: np.random.Generator
) -> list[int]:
    """Fine-tune on synthetic sentences of the entries, without the memory; return the ids that may go.

    `delete` gives them all up. `verify` keeps an entry whose words the model does not answer without the memory, and
    takes the training back if another memory that worked no longer does once the entries are gone. It looks at memories
    that were not trained on.
    """
    assert learner.memory is not None
    entries: list[Remembered] = learner.memory.values(ids)
    stories = [story for remembered in entries for story in synthetic_stories(remembered)]
    if learner.policies.consolidate == "delete":
        learner.train(stories, tuning, random, use_memory=False)
        return list(ids)
    others = [remembered.story for remembered in learner.memory.values(learner.memory.ids) if remembered not in entries]
    others = [others[i] for i in random.permutation(len(others))]
    # what is rehearsed cannot be what the check rests on.
    checked, rehearsed = others[::2][:_CHECKED], others[1::2][:_CHECKED]
    before = copy.deepcopy(learner.network.state_dict())
    worked = _right(learner, checked, use_memory=True)
    learner.train([*stories, *rehearsed], tuning, random, use_memory=False)
    known = _right(learner, [remembered.story for remembered in entries], use_memory=False)
    leaving = [identity for identity, right in zip(ids, known.tolist(), strict=True) if right]
    memory = learner.memory
    learner.memory = copy.deepcopy(memory)
    learner.memory.forget(leaving)
    is_hurt = bool((worked & ~_right(learner, checked, use_memory=True)).any())
    learner.memory = memory
    if is_hurt:
        learner.network.load_state_dict(before)
        return []
    return leaving


def _right(learner: Learner, stories: Sequence[Story], *, use_memory: bool) -> torch.Tensor:
    if not stories:
        return torch.zeros(0, dtype=torch.bool)
    with torch.no_grad():
        logits = learner.forward([story.text for story in stories], use_memory=use_memory).logits
    return logits.argmax(1) == torch.tensor([learner.vocabulary.classes[story.word] for story in stories])

"""The trained presets as methods: train, keep or drop memories, answer."""

from collections.abc import Sequence

import numpy as np
import torch

from rhapsode.errors import UserError
from rhapsode.evaluation.oneshot.contracts import Answers, Counters, Story
from rhapsode.evaluation.oneshot.learner import Learner, Network, Vocabulary
from rhapsode.evaluation.oneshot.lifecycle import TEMPLATES, run_lifecycle
from rhapsode.evaluation.oneshot.presets import Preset
from rhapsode.evaluation.oneshot.swarm import run_iteration


class Trained:
    """An encoder with or without a memory, trained by one run or by the swarm."""

    def __init__(self, preset: Preset, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        """Make it for texts whose words are known beforehand, as the document's tokenizer knows them.

        Raises:
            UserError: if the preset asks for a swarm without memory policies that say so, or answers by the nearest
                key without a memory.
        """
        if preset.policies is None and preset.answer == "nearest":
            raise UserError("answer must be classifier for a preset without policies; got nearest.")
        # seeded apart from the task: the numbers drawn there must not come again.
        self._random = np.random.default_rng([seed, 1])
        vocabulary = Vocabulary([*texts, *(t.format(word="", definition="", usage="") for t in TEMPLATES)], labels)
        vocabulary.max_length += 2
        self.counters = Counters()
        self._preset = preset
        self._learner = Learner(vocabulary, Network(vocabulary, preset.training, seed), preset.policies)
        self._iterations = 0

    def teach(self, stories: Sequence[Story]) -> None:
        """Train on stories; in a swarm, all its iterations at first and one when called again."""
        policies = self._preset.policies
        rounds = 1
        if policies is not None and policies.swarm and self._iterations == 0:
            rounds = self._preset.swarm.iterations
        for _ in range(rounds):
            self._train(stories)
            self._iterations += 1
            if policies is not None and self._iterations % policies.consolidate_every == 0:
                self.maintain()
        memory = self._learner.memory
        if memory is not None:
            self.counters.written = self._learner.written
            self.counters.extra["evicted"] = memory.evicted
            self.counters.extra["entries"] = len(memory)
            if self._preset.reencode:
                memory.reencode(self._learner.encode)

    def maintain(self) -> None:
        """Consolidate and forget as the policies say."""
        counts = run_lifecycle(self._learner, self._preset.training, self._random)
        self.counters.deleted += counts.consolidated + counts.forgotten
        for name, number in vars(counts).items():
            self.counters.extra[name] = self.counters.extra.get(name, 0) + number

    def answer(self, texts: Sequence[str]) -> Answers:
        """Name the word of every text."""
        return self._learner.answer(texts, self._preset.answer)

    def _train(self, stories: Sequence[Story]) -> None:
        preset = self._preset
        self.counters.extra["steps"] = self.counters.extra.get("steps", 0)
        # denormals were seen to cost ten times in a step.
        torch.set_flush_denormal(True)
        if preset.policies is not None and preset.policies.swarm:
            swarm = preset.swarm
            self._learner = run_iteration(self._learner, stories, preset.training, swarm, self._random)
            self.counters.extra["steps"] += swarm.managers * swarm.agents_per_manager * preset.training.steps
        else:
            self._learner.train(stories, preset.training, self._random)
            self.counters.extra["steps"] += preset.training.steps

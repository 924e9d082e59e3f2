"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846) with the document's three ranks."""

from collections.abc import Sequence

import numpy as np

from rhapsode.evaluation.oneshot.contracts import Story
from rhapsode.evaluation.oneshot.learner import Learner
from rhapsode.evaluation.oneshot.presets import SwarmConfig, TrainingConfig

_OPTIMIZERS = ("sgd", "adam", "rmsprop")
# stories by which agents are compared.
_JUDGED = 32


def run_iteration(
    supervisor: Learner,
    stories: Sequence[Story],
    config: TrainingConfig,
    swarm: SwarmConfig,
    random: np.random.Generator,
) -> Learner:
    """Let every agent train from the supervisor's weights and memory by settings it draws; return the best.

    A manager keeps the best of its agents, the supervisor the best of the managers' choices: more right answers on
    a sample of the training stories, then the lower loss. There is no other data: a word has one story.
    """
    judged = [stories[i] for i in random.permutation(len(stories))[:_JUDGED]]
    choices = []
    for _ in range(swarm.managers):
        agents = [_train_agent(supervisor, stories, config, swarm, random) for _ in range(swarm.agents_per_manager)]
        choices.append(_best(agents, judged))
    return _best(choices, judged)


def _best(agents: Sequence[Learner], judged: Sequence[Story]) -> Learner:
    ranks = [agent.loss_and_accuracy(judged) for agent in agents]
    return agents[min(range(len(agents)), key=lambda i: (-ranks[i][1], ranks[i][0]))]


def _train_agent(
    supervisor: Learner,
    stories: Sequence[Story],
    config: TrainingConfig,
    swarm: SwarmConfig,
    random: np.random.Generator,
) -> Learner:
    rate = float(np.exp(random.uniform(np.log(swarm.lowest_rate), np.log(swarm.highest_rate))))
    optimizer = _OPTIMIZERS[random.integers(len(_OPTIMIZERS))]
    top_k = int(random.integers(1, swarm.highest_top_k + 1))
    agent = supervisor.clone(supervisor.policies.model_copy(update={"top_k": top_k}))
    agent.train(stories, config.model_copy(update={"optimizer": optimizer, "learning_rate": rate}), random)
    return agent

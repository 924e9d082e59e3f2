"""The trained classifier with memory: what it learns, writes, reads, and what its lifecycle does."""

from typing import Any

import numpy as np
import torch

from rhapsode.evaluation.oneshot.learner import Learner, Network, Vocabulary
from rhapsode.evaluation.oneshot.lifecycle import run_lifecycle, synthetic_stories
from rhapsode.evaluation.oneshot.presets import SwarmConfig, TrainingConfig
from rhapsode.evaluation.oneshot.swarm import run_iteration
from rhapsode.evaluation.oneshot.task import Task, TaskConfig, make_task
from rhapsode.memory.policies import KeyValueConfig, Policies

TASK = make_task(0, TaskConfig(words_with={1: 3, 2: 2}, test_stories=2, more_words=2, untaught_words=2))
CONFIG = TrainingConfig(width=16, num_layers=1, num_heads=2, steps=5, learning_rate=1e-2, batch_size=4)


def make_learner(policies: Policies | None, task: Task = TASK) -> Learner:
    stories = [*task.train, *task.more, *task.test]
    texts = [story.text for story in stories] + ["means is"]
    vocabulary = Vocabulary(texts, [story.word for story in stories])
    vocabulary.max_length += 2
    return Learner(vocabulary, Network(vocabulary, CONFIG, 0), policies)


def make_policies(**settings: Any) -> Policies:
    return Policies.model_validate({"gate": "learned", "read": "mean", **settings})


def test_training_lowers_the_loss_and_reaches_every_parameter() -> None:
    learner = make_learner(make_policies())
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    loss, _ = learner.loss_and_accuracy(TASK.train)
    learner.train(TASK.train, CONFIG.model_copy(update={"steps": 40}), np.random.default_rng(0))
    assert learner.loss_and_accuracy(TASK.train)[0] < loss / 2
    assert [name for name, p in learner.network.named_parameters() if torch.equal(p, before[name])] == []


def test_all_writes_every_sample_and_surprise_writes_fewer() -> None:
    everything, some, none = (
        make_learner(make_policies(write=write, surprise_threshold=threshold))
        for write, threshold in (("all", 0.3), ("surprise", 0.3), ("surprise", 1e9))
    )
    for learner in (everything, some, none):
        learner.train(TASK.train, CONFIG.model_copy(update={"steps": 40}), np.random.default_rng(0))
    assert everything.written == 40 * 4
    assert 0 < some.written < everything.written
    assert none.written == 0
    assert everything.memory is not None
    assert len(everything.memory) == everything.written
    assert everything.memory.column("uses").sum() > 0


def test_ablating_the_memory_changes_the_answers_of_a_gated_model() -> None:
    learner = make_learner(make_policies())
    learner.train(TASK.train, CONFIG, np.random.default_rng(0))
    texts = [story.text for story in TASK.test]
    with torch.no_grad():
        with_memory, without = learner.forward(texts), learner.forward(texts, use_memory=False)
    assert with_memory.gates is not None
    assert ((with_memory.gates > 0) & (with_memory.gates < 1)).all()
    assert not torch.allclose(with_memory.logits, without.logits)
    assert without.gates is None


def test_what_is_mixed_is_the_mean_of_what_was_read() -> None:
    learner = make_learner(make_policies(top_k=2))
    learner.train(TASK.train, CONFIG, np.random.default_rng(0))
    assert learner.memory is not None
    result = learner.forward([TASK.test[0].text])
    assert result.hits is not None
    assert result.gates is not None
    values = [remembered.vector for remembered in learner.memory.values(result.hits.ids[0, :2].tolist())]
    fused = result.gates * torch.from_numpy(np.mean(values, axis=0)) + (1 - result.gates) * result.pooled
    assert torch.allclose(learner.network.classifier(fused), result.logits, atol=1e-5)


def test_a_clone_leaves_the_original_alone() -> None:
    learner = make_learner(make_policies())
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    learner.clone().train(TASK.train, CONFIG, np.random.default_rng(0))
    assert learner.memory is not None
    assert len(learner.memory) == learner.written == 0
    assert all(torch.equal(p, before[name]) for name, p in learner.network.named_parameters())


def test_the_swarm_returns_its_best_agent() -> None:
    learner = make_learner(make_policies(swarm=True))
    best = run_iteration(learner, TASK.train, CONFIG, SwarmConfig(agents_per_manager=3), np.random.default_rng(0))
    assert best is not learner
    assert best.loss_and_accuracy(TASK.train)[0] < learner.loss_and_accuracy(TASK.train)[0]
    assert 1 <= best.policies.top_k <= 10


def make_sure(consolidate: str, steps: int, rate: float = 1e-2) -> Learner:
    """A learner trained for a while, all of whose memories are sure of themselves."""
    learner = make_learner(make_policies(consolidate=consolidate))
    learner.train(
        TASK.train, CONFIG.model_copy(update={"steps": steps, "learning_rate": rate}), np.random.default_rng(0)
    )
    assert learner.memory is not None
    for identity in learner.memory.ids:
        for _ in range(40):
            learner.memory.record(identity, True)
    return learner


def test_delete_gives_up_whatever_is_sure() -> None:
    learner = make_sure("delete", steps=1)
    counts = run_lifecycle(learner, CONFIG, np.random.default_rng(0))
    assert learner.memory is not None
    assert counts.consolidated == 4
    assert len(learner.memory) == 0


def test_verify_keeps_what_the_model_does_not_know() -> None:
    learner = make_sure("verify", steps=1, rate=1e-9)
    counts = run_lifecycle(learner, CONFIG, np.random.default_rng(0), tuning_steps=0)
    assert learner.memory is not None
    assert counts.kept_by_check == len(learner.memory) > 0
    learner = make_sure("verify", steps=60)
    counts = run_lifecycle(learner, CONFIG, np.random.default_rng(0))
    assert counts.consolidated > 0
    # what was given up is answered without the memory.
    assert learner.loss_and_accuracy(TASK.train, use_memory=False)[1] == 1


def test_forgetting_removes_what_was_seen_once_and_protection_does_not() -> None:
    for forget in ("utility", "protected"):
        learner = make_learner(make_policies(forget=forget))
        learner.train(TASK.train, CONFIG.model_copy(update={"steps": 1}), np.random.default_rng(0))
        counts = run_lifecycle(learner, CONFIG, np.random.default_rng(0))
        # confidence is the chance of one of few words, and no memory was tried yet.
        assert counts.forgotten == (4 if forget == "utility" else 0)


def test_without_memory_there_is_no_lifecycle() -> None:
    learner = make_learner(None)
    assert vars(run_lifecycle(learner, CONFIG, np.random.default_rng(0))) == {
        "consolidated": 0,
        "kept_by_check": 0,
        "forgotten": 0,
    }
    assert learner.answer([TASK.test[0].text], "classifier").memory_words is None


def test_synthetic_sentences_come_from_the_stored_definition() -> None:
    learner = make_learner(Policies(memory=KeyValueConfig()))
    learner.train(TASK.train, CONFIG, np.random.default_rng(0))
    assert learner.memory is not None
    remembered = learner.memory.values([0])[0]
    for story in synthetic_stories(remembered):
        assert story.word == remembered.word
        assert story.word in story.text
        assert story.definition in story.text or story.usage in story.text

"""The trainer: it learns, resumes bit for bit, stops early, and an exhausted iterator is an error."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rhapsode.errors import StateError, UserError
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import Progress, save_checkpoint
from rhapsode.training.embedding.config import EmbeddingConfig
from rhapsode.training.embedding.data import Pairs, held_out, neighbour_batches, synthetic_batches, text_batches
from rhapsode.training.embedding.loop import EmbeddingLoop
from rhapsode.training.embedding.objectives import Addressing, Distil, Old, SkipGram

BASE = {"vocab_size": 200, "dim": 16, "num_bundles": 50, "batch_size": 32, "learning_rate": 0.02, "eval_batches": 2}


def make_loop(out: Path, kind: type[Addressing] = Addressing, **settings: object) -> EmbeddingLoop:
    config = EmbeddingConfig.model_validate({**BASE, "max_steps": 40, "eval_every": 20, **settings})
    embedding = HolographicEmbedding(config.vocab_size, config.dim, config.num_bundles, seed=config.seed)
    torch.nn.init.normal_(embedding.store.weight, std=0.25, generator=torch.Generator().manual_seed(0))
    batch_of = synthetic_batches(config.vocab_size, config.batch_size, config.seed)
    folder = RunFolder(out)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    target = kind(config, embedding)
    return EmbeddingLoop(embedding, target, config, batch_of, held_out(batch_of, config.eval_batches), folder)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, spectral="log_det")
    lines: list[str] = []
    loop.say = lines.append
    before = loop.evaluate()
    progress, after = loop.train()
    assert progress.step == 40
    assert after.loss < before.loss - 0.5
    assert after.top1 > before.top1
    steps = [line for line in lines if line.startswith("step")]
    assert [line.split(":")[0] for line in steps] == ["step 10", "step 20", "step 30", "step 40"]
    number = r"\d+\.\d+"
    assert all(
        re.fullmatch(rf"step \d+: loss=-?{number}, grad_norm={number}, lr={number}e-\d+", line) for line in steps
    )
    evaluations = [line for line in lines if line.startswith("[EVAL]")]
    assert len(evaluations) == 2
    assert all(re.fullmatch(rf"\[EVAL\] loss={number}, top1={number}%, top5={number}%", line) for line in evaluations)


def test_the_old_loss_learns_nothing_and_has_a_huge_gradient(tmp_path: Path) -> None:
    old, new = make_loop(tmp_path / "old", Old), make_loop(tmp_path / "new")
    for loop in (old, new):
        torch.nn.init.normal_(loop.embedding.store.weight, std=0.005, generator=torch.Generator().manual_seed(0))
        loop.say = [].append
        loop._step(0, 1e-9)
    assert old.grad_norm > 100 * new.grad_norm
    before = old.evaluate().loss
    _, after = old.train()
    assert after.loss > before - 0.3


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole", negatives=64)
    _, expected = whole.train()
    cut = make_loop(tmp_path / "cut", negatives=64, save_every=10)
    batch_of = cut.batch_of

    def interrupted(step: int) -> Pairs:
        if step == 25:
            raise KeyboardInterrupt
        return batch_of(step)

    cut.batch_of = interrupted
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    again = make_loop(tmp_path / "cut", negatives=64, save_every=10)
    progress, figures = again.train(resume=True)
    assert figures == expected
    assert progress.step == 40
    assert again.grad_norm == whole.grad_norm
    # a training that has ended goes no further, and says the same.
    ended = make_loop(tmp_path / "cut", negatives=64, save_every=10)
    assert ended.train(resume=True)[1] == expected
    assert ended.grad_norm == whole.grad_norm
    assert torch.equal(again.embedding.store.weight, whole.embedding.store.weight)
    assert (tmp_path / "cut/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    make_loop(tmp_path, max_steps=2).train()
    with pytest.raises(StateError, match="must be of an embedding of this size; it is of another"):
        make_loop(tmp_path, max_steps=2, num_bundles=51).train(resume=True)
    save_checkpoint(RunFolder(tmp_path), {"other": torch.zeros(1)}, Progress(step=3))
    with pytest.raises(StateError, match="must be of an embedding of this size; it is of another"):
        make_loop(tmp_path, max_steps=2).train(resume=True)


def test_patience_stops_and_the_best_store_stays(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, Old, max_steps=400, eval_every=1, patience=3)
    progress, figures = loop.train()
    assert progress.step < 400
    assert progress.step == progress.best_step + 3
    assert figures.loss == pytest.approx(progress.best_nats)


def test_two_evaluations_through_the_factory_are_equal(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    assert loop.evaluate() == loop.evaluate()


def test_an_exhausted_iterator_is_an_error_and_never_zero(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    once: Iterator[Pairs] = loop.eval_data()
    loop.eval_data = lambda: once
    assert loop.evaluate().loss > 0
    with pytest.raises(StateError, match="evaluation data must give batches every time it is called; got an exhausted"):
        loop.evaluate()
    loop.eval_data = once  # type: ignore[assignment]
    with pytest.raises(
        UserError, match="evaluation data must be a callable that returns a fresh iterator; got generator"
    ):
        loop.evaluate()


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.embedding.store.weight.data.fill_(math.nan)
    with pytest.raises(
        StateError, match=r"must have a finite loss; it was not a number at step 1\. Lower --learning-rate"
    ):
        loop.train()


def test_any_seed_can_draw_negatives(tmp_path: Path) -> None:
    seed = 2**62 - 1
    loop, other = make_loop(tmp_path, negatives=64, seed=seed), make_loop(tmp_path, negatives=64, seed=seed)
    pairs = loop.batch_of(0)
    losses = [loop.target.loss(loop.embedding, pairs, step).item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] == other.target.loss(other.embedding, pairs, 0).item() != losses[2]


def test_sampled_negatives_estimate_the_whole_loss(tmp_path: Path) -> None:
    whole, sampled = make_loop(tmp_path, negatives=0), make_loop(tmp_path, negatives=20_000)
    pairs = whole.batch_of(0)
    exact = whole.target.loss(whole.embedding, pairs, 0).item()
    # 20,000 draws of 200 keys: within a few hundredths of a nat.
    assert sampled.target.loss(sampled.embedding, pairs, 0).item() == pytest.approx(exact, abs=0.05)


def test_distilling_comes_near_the_teacher() -> None:
    config = EmbeddingConfig.model_validate(BASE)
    embedding = HolographicEmbedding(200, 16, 200)
    torch.nn.init.normal_(embedding.store.weight, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(200, 16, generator=torch.Generator().manual_seed(5))
    target = Distil(config, embedding, teacher)
    assert target.relative_error(embedding) == pytest.approx(2, rel=0.2)
    embedding.superpose_(teacher)
    # one id a bundle: the closed form is exact.
    assert target.relative_error(embedding) == pytest.approx(0, abs=1e-9)
    ids = torch.arange(200)
    assert target.loss(embedding, Pairs(ids, ids), 0).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(UserError, match=r"--teacher must have a table of the embedding's size; got \(200, 15\)"):
        Distil(config, embedding, teacher[:, 1:])


def test_neighbours_in_text_become_neighbours_in_the_space() -> None:
    config = EmbeddingConfig.model_validate({**BASE, "vocab_size": 20, "window": 1})
    rng = torch.Generator().manual_seed(0)
    # even ids follow even ones, and odd ones odd ones.
    parity = torch.randint(0, 2, (300, 1), generator=rng)
    ids = (2 * torch.randint(0, 10, (300, 30), generator=rng) + parity).flatten().numpy()
    embedding = HolographicEmbedding(20, 16, 20)
    torch.nn.init.normal_(embedding.store.weight, std=0.25, generator=rng)
    target = SkipGram(config, torch.bincount(torch.from_numpy(ids), minlength=20))
    batch_of = neighbour_batches(ids, 64, 1, 0)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=0.02)
    for step in range(60):
        loss = target.loss(embedding, batch_of(step), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors = torch.nn.functional.normalize(embedding.weight.detach(), dim=-1)
    cosines = vectors @ vectors.T
    alike = (torch.arange(20)[:, None] - torch.arange(20)) % 2 == 0
    off = ~torch.eye(20, dtype=torch.bool)
    assert cosines[alike & off].mean() > cosines[~alike].mean() + 0.3


def test_a_token_is_no_neighbour_of_itself() -> None:
    config = EmbeddingConfig.model_validate({**BASE, "vocab_size": 20})
    embedding = HolographicEmbedding(20, 16, 20)
    torch.nn.init.normal_(embedding.store.weight, generator=torch.Generator().manual_seed(0))
    target = SkipGram(config, torch.ones(20, dtype=torch.int64))
    vectors = torch.nn.functional.normalize(embedding.weight.detach(), dim=-1)
    logits = (vectors @ vectors.T / config.temperature).fill_diagonal_(-math.inf)
    nearest = logits.argmax(1)
    ids = torch.arange(20)
    scores = target.score(embedding, Pairs(ids, nearest))
    # nothing else is nearer than the nearest.
    assert (scores.top1, scores.top5, scores.count) == (20, 20, 20)
    expected = torch.nn.functional.cross_entropy(logits, nearest, reduction="sum").item()
    assert scores.nats == pytest.approx(expected, rel=1e-5)
    # where a token is its own neighbour, it is found first.
    assert target.score(embedding, Pairs(ids, ids)).top1 == 20
    # in training, a row whose only other candidate is its own token has nothing to tell apart.
    config = config.model_copy(update={"spectral_weight": 0.0})
    loss = SkipGram(config, torch.ones(20, dtype=torch.int64)).loss(
        embedding, Pairs(torch.tensor([3, 5]), torch.tensor([5, 3])), 0
    )
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_batches_are_functions_of_their_number() -> None:
    ids = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(0)).numpy()
    for batch_of in (synthetic_batches(50, 8, 1), text_batches(ids, 8, 1), neighbour_batches(ids, 64, 3, 1)):
        first, again, other = batch_of(3), batch_of(3), batch_of(4)
        assert torch.equal(first.inputs, again.inputs)
        assert torch.equal(first.targets, again.targets)
        assert not torch.equal(first.inputs, other.inputs)
    with pytest.raises(UserError, match=r"--data must hold at least 4 tokens; got 2\. Give more text"):
        neighbour_batches(ids[:2], 8, 3, 0)

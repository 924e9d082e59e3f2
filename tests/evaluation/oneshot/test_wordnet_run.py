"""Every method on a tiny honest task: whole rows, chance where it is due, and ours ahead where there is something."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhapsode.evaluation.oneshot.matcher import MatcherConfig, count_vectors, make_pairs
from rhapsode.evaluation.oneshot.matcher_training import DualEncoder, make_batches, train_ensemble
from rhapsode.evaluation.oneshot.parts_training import train_parts
from rhapsode.evaluation.oneshot.rounds import answers_right, draw_candidates, make_round, measure_abstention
from rhapsode.evaluation.oneshot.wordnet import read_wordnet
from rhapsode.evaluation.oneshot.wordnet_methods import Encoders, WordMemory, fit_weights
from rhapsode.evaluation.oneshot.wordnet_run import Learnt, build_ours, run_wordnet
from rhapsode.evaluation.oneshot.wordnet_task import HonestTask, WordNetConfig, make_wordnet_task

MATCHER = MatcherConfig(
    width=16, context_width=4, num_contexts=200, members=2, epochs=2, batch_size=32, learning_rate=0.01
)
CONFIG = WordNetConfig(test_share=0.3, validation_share=0.2, num_ways=(5,), shots=(1,), further=(5, 50))


@pytest.fixture(scope="module")
def rows(dictionary: Path) -> list[dict[str, Any]]:
    def encode(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts])

    said: list[str] = []
    rows = run_wordnet(dictionary, CONFIG, MATCHER, run_encoder=encode, progress=said.append)
    assert said[0].startswith("120 words (60 train, 24 validation, 36 test); 60 other senses")
    return rows


def test_every_method_has_a_row_for_every_way(rows: list[dict[str, Any]]) -> None:
    accuracy = [row for row in rows if row["measure"] == "accuracy"]
    names = {row["method"] for row in accuracy}
    assert names == {
        *("majority", "bm25", "tf_idf", "random_nearest", "frozen_nearest", "prototypical"),
        *("fine_tuning", "replay", "run_nearest", "rhapsode"),
    }
    assert len(accuracy) == 3 * 2 * len(names)
    for row in accuracy:
        assert row["accuracy"]["n"] == 36 * 2
        if row["method"] == "rhapsode":
            assert row["best_control"] in names - {"rhapsode"}
            low, high = row["minus_best_control"]["interval"]
            assert low <= row["minus_best_control"]["value"] <= high


def test_majority_is_chance_and_shown_words_are_known(rows: list[dict[str, Any]]) -> None:
    found = {
        (row["method"], row["variant"], row["ways"]): row["accuracy"]["value"]
        for row in rows
        if row["measure"] == "accuracy"
    }
    # 72 queries of chance a fifth scatter by 0.05.
    assert found["majority", "blanked", "5"] == pytest.approx(0.2, abs=0.16)
    assert found["rhapsode", "visible", "all"] == found["rhapsode", "nonce", "all"] == 1
    assert found["bm25", "visible", "5"] > found["bm25", "blanked", "5"] > 0.3
    assert found["rhapsode", "blanked", "5"] > 0.4


def test_abstention_and_retention_have_rows(rows: list[dict[str, Any]]) -> None:
    abstention = {(r["method"], r["variant"]): r for r in rows if r["measure"] == "abstention"}
    assert abstention["rhapsode", "nonce"]["auroc"] > 0.99
    assert abstention["majority", "nonce"]["auroc"] == 0.5
    retention = [r for r in rows if r["measure"] == "retention" and r["method"] == "rhapsode"]
    # the tiny corpus has no other words than those of the task.
    assert [r["further"] for r in retention] == [0, 0, 0, 0]
    assert all(r["retention"]["value"] == 1 for r in retention)


@pytest.fixture(scope="module")
def task(dictionary: Path) -> HonestTask:
    return make_wordnet_task(read_wordnet(dictionary), CONFIG, 0)


@pytest.fixture(scope="module")
def learnt(task: HonestTask) -> Learnt:
    vectors = count_vectors(task.corpus, MATCHER)
    pairs = make_pairs(task, vectors.ids)
    return Learnt(Encoders(train_ensemble(pairs, vectors, MATCHER), vectors, train_parts(pairs, 0)), None, None)


def test_the_arrays_score_as_the_trained_module_does(task: HonestTask) -> None:
    config = MATCHER.model_copy(update={"dropout": 0.0, "members": 1})
    vectors = count_vectors(task.corpus, config)
    pairs = make_pairs(task, vectors.ids)
    module = DualEncoder(vectors, config)
    entries, queries, _ = next(make_batches(pairs, config))
    scores = module.scores(entries, queries).detach().numpy()
    matcher = module.export(vectors.ids)
    keys = np.stack([np.r_[matcher._content(e), matcher.entry_features[e.features].sum(0)] for e in entries])
    asked = [
        np.r_[matcher._content(q) @ matcher.projection, matcher.query_features[q.features].sum(0)] for q in queries
    ]
    assert np.stack(asked) @ keys.T == pytest.approx(scores, abs=1e-4)


def test_a_memory_scores_by_the_sum_of_its_features(task: HonestTask, learnt: Learnt) -> None:
    ours = build_ours(task, learnt, "visible", 1)
    ours.teach(task.entries("visible", 1))
    _, queries = task.queries("visible", 1, "test")
    features = ours.features(queries[:7])
    assert ours.scores(queries[:7]) == pytest.approx(np.einsum("f,fqn->qn", ours.weights, features), abs=1e-3)
    # the matcher's feature is what the key-value memory finds.
    keys = np.stack([learnt.encoders.matcher.encode_query(query.text) for query in queries[:7]])
    assert ours.memory.read(keys).ids[:, 0].tolist() == features[0].argmax(axis=1).tolist()
    # every feature tells entries apart: none is idle.
    assert (features.std(axis=2).max(axis=1) > 0).all()
    assert len(ours.weights) == len(WordMemory.FEATURES) == len(features)


def test_weights_are_at_the_peak_of_the_likelihood() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((3, 60, 9))
    features[2] = 1.0
    targets = (features[0] - 0.5 * features[1] + random.gumbel(size=(60, 9))).argmax(axis=1)
    weights = fit_weights(features, targets)

    def loss(w: np.ndarray) -> float:
        logits = np.tensordot(w, features, 1)
        chosen = logits[np.arange(60), targets]
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen) + 0.5e-3 * w @ w)

    for i in range(3):
        for step in (-0.05, 0.05):
            assert loss(weights) < loss(weights + step * np.eye(3)[i])
    assert weights[2] == pytest.approx(0, abs=1e-9)


def test_candidates_hold_the_right_word_once_and_no_synonym(task: HonestTask) -> None:
    round_ = make_round(task, "blanked", 1, "test")
    (rows, none) = draw_candidates(round_, [5], 0).values()
    assert none is None
    assert rows is not None
    assert rows.shape == (len(round_.queries), 5)
    for target, row in zip(round_.targets.tolist(), rows.tolist(), strict=True):
        assert row.count(target) == 1
        assert len(set(round_.senses[row])) == 5


def test_every_answer_of_a_round_has_as_many_sentences(task: HonestTask) -> None:
    short = replace(task.words[0], usages=task.words[0].usages[:2])
    uneven = replace(task, words=[short, *task.words[1:]])
    assert len(make_round(uneven, "blanked", 1, "test").entries) == len(task.words)
    round_ = make_round(uneven, "blanked", 2, "test")
    assert len(round_.entries) == len(task.words) - 1
    assert {len(entry.usages) for entry in round_.entries} == {2}
    for target, query in zip(round_.targets.tolist(), round_.queries, strict=True):
        assert query.text not in round_.entries[target].usages
    part = make_round(uneven, "visible", 1, "validation", only_split=True)
    assert len(part.entries) == 24
    assert sorted(set(part.targets.tolist())) == list(range(24))


def test_among_equal_scores_chance_decides(task: HonestTask) -> None:
    round_ = make_round(task, "visible", 1, "test")
    shape = (len(round_.queries), len(round_.entries))
    rows = draw_candidates(round_, [5], 0)["5"]
    assert answers_right(np.zeros(shape), round_, rows).mean() == pytest.approx(0.2, abs=0.16)
    # a further word that scores best is never right.
    scores = np.full((shape[0], shape[1] + 1), -1.0)
    scores[np.arange(shape[0]), round_.targets] = 1.0
    assert answers_right(scores, round_).all()
    scores[:, -1] = 2.0
    assert not answers_right(scores, round_).any()


def test_abstention_asks_about_what_was_taken_out(task: HonestTask) -> None:
    round_ = make_round(task, "visible", 1, "test")
    scores = np.random.default_rng(0).random((len(round_.queries), len(round_.entries)))
    assert measure_abstention(scores, round_)["auroc"] == pytest.approx(0.5, abs=0.2)
    scores[np.arange(len(scores)), round_.targets] = 2.0
    found = measure_abstention(scores, round_)
    assert (found["auroc"], found["coverage"], found["risk"]) == (1.0, 1.0, 0.0)
    few = replace(round_, targets=round_.targets[:2], queries=round_.queries[:2])
    assert measure_abstention(scores[:2], few) == {"auroc": None}

"""Intervals hold what they promise on simulated answers; abstention agrees with counting by hand."""

import numpy as np
import pytest

from rhapsode.evaluation.oneshot.metrics import abstention, auroc, difference
from rhapsode.ops.statistics import proportion


def test_a_share_of_nothing_is_none() -> None:
    assert proportion([], []) == {"value": None, "n": 0, "interval": None}


def test_independent_answers_have_wilson_s_interval() -> None:
    figure = proportion([True] * 80 + [False] * 20, range(100))
    assert figure["value"] == 0.8
    # the sample variance over n - 1, and no clusters: n shrinks by a hundredth.
    assert figure["interval"] == pytest.approx([0.7112, 0.8666], abs=2e-3)


def test_an_interval_stays_open_where_every_answer_is_right() -> None:
    few = proportion([True] * 100, [i // 10 for i in range(100)])
    # ten words answered ten times each are ten observations.
    assert few["interval"] == pytest.approx([0.7225, 1.0], abs=1e-3)
    assert proportion([False] * 100, range(100))["interval"][1] < 0.04


@pytest.mark.parametrize("num_clusters", [5, 100])
def test_intervals_cover_the_truth_when_answers_of_a_word_are_alike(num_clusters: int) -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        chances = random.beta(2, 2, num_clusters)
        clusters = np.repeat(np.arange(num_clusters), 10)
        low, high = proportion(random.random(len(clusters)) < chances[clusters], clusters.tolist())["interval"]
        covered += low <= 0.5 <= high
    # a binomial interval would cover about two thirds; 400 trials scatter by 0.011.
    assert covered / 400 > 0.91


def test_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        skill = np.repeat(random.random(80), 4)
        theirs = random.random(320) < skill * 0.8
        ours = theirs | (random.random(320) < 0.1)
        low, high = difference(ours, theirs, (np.arange(320) // 4).tolist())["interval"]
        covered += low <= 0.1 * 0.6 <= high
    assert covered / 300 > 0.9
    assert difference(np.array([True]), np.array([False]), ["a"]) == {"value": 1.0, "n": 1, "interval": None}


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    taught, untaught = random.integers(5, size=40).astype(float), random.integers(4, size=30).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in taught for b in untaught]
    assert auroc(taught, untaught) == pytest.approx(np.mean(pairs))


def test_abstention_counts_answers_errors_and_fabrications() -> None:
    taught, right = np.array([0.9, 0.8, 0.7, 0.2]), np.array([True, True, False, True])
    found = abstention(taught, right, np.array([0.1, 0.95]), np.linspace(0, 0.6, 10), 0.1)
    assert (found["coverage"], found["risk"], found["fabricated"]) == (0.75, pytest.approx(1 / 3), 0.5)
    assert found["aurc"] == pytest.approx(np.mean([0, 0, 1 / 3, 1 / 4]))
    assert abstention(taught, right, taught, taught[:3])["coverage"] is None
    assert abstention(taught, right, taught, np.full(10, 2.0))["risk"] is None

"""The honest task measured: every method, variant, number of shots and of ways, with the same draws for all."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rhapsode.evaluation.oneshot.matcher import MatcherConfig, count_vectors, make_pairs
from rhapsode.evaluation.oneshot.metrics import difference
from rhapsode.evaluation.oneshot.rounds import answers_right, draw_candidates, make_round, measure_abstention
from rhapsode.evaluation.oneshot.wordnet import read_wordnet
from rhapsode.evaluation.oneshot.wordnet_methods import (
    Encoders,
    Lexical,
    Majority,
    Matching,
    NearestVector,
    WordMemory,
    fit_weights,
    random_encoder,
)
from rhapsode.evaluation.oneshot.wordnet_task import VARIANTS, HonestTask, Variant, WordNetConfig, make_wordnet_task
from rhapsode.ops.statistics import proportion

Encode = Callable[[list[str]], Float[np.ndarray, "N D"]]
OURS = "rhapsode"
_RANDOM_WIDTH = 256
# methods that train on the taught words themselves run with this many shots only: they cost most.
_TRAINED_SHOTS = 1


@dataclass(frozen=True)
class Learnt:
    """What was learnt from the corpus, once for all methods."""

    encoders: Encoders
    prototypes: Any
    run_encoder: Encode | None


def run_wordnet(
    dict_folder: str | Path,
    config: WordNetConfig | None = None,
    matcher: MatcherConfig | None = None,
    *,
    seed: int = 0,
    run_encoder: Encode | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure every method on the honest task.

    Args:
        dict_folder: WordNet's `dict` folder, such as /usr/share/wordnet.
        config: sizes of the task.
        matcher: training of our matcher, and of the prototypical network.
        seed: of the split and of whatever is drawn.
        run_encoder: texts to vectors, one more frozen encoder to compare with.
        progress: is told a sentence at every stage.

    Returns:
        rows of three kinds, told apart by `measure`: `accuracy` for each method, `variant`, `shots` and `ways`, ours
        with `minus_best_control`, paired; `abstention` among all words; and `retention` after further words.

    Raises:
        UserError, StateError: if WordNet cannot be read; see `read_wordnet`.
    """
    say = progress or (lambda sentence: None)
    task = make_wordnet_task(read_wordnet(dict_folder), config, seed)
    counts = ", ".join(f"{len(task.indices(split)):,} {split}" for split in ("train", "validation", "test"))
    say(f"{len(task.words):,} words ({counts}); {len(task.corpus):,} other senses to learn from")
    learnt = learn(task, matcher or MatcherConfig(seed=seed), run_encoder, say)
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS:
        for shots in task.config.shots:
            began = time.perf_counter()
            rows += measure(task, learnt, variant, shots)
            say(f"{variant}, {shots} shots: {time.perf_counter() - began:.0f} s")
    for variant in ("blanked", "visible"):
        rows += measure_retention(task, learnt, variant)
    return rows


def learn(task: HonestTask, config: MatcherConfig, run_encoder: Encode | None, say: Callable[[str], None]) -> Learnt:
    """Learn from the corpus all that the methods share."""
    from rhapsode.evaluation.oneshot.matcher_training import train_ensemble
    from rhapsode.evaluation.oneshot.parts_training import train_parts
    from rhapsode.evaluation.oneshot.wordnet_trained import PrototypicalNetwork

    began = time.perf_counter()
    vectors = count_vectors(task.corpus, config)
    say(f"counted vectors of {len(vectors.ids):,} words: {time.perf_counter() - began:.0f} s")
    pairs = make_pairs(task, vectors.ids)
    began = time.perf_counter()
    matcher = train_ensemble(pairs, vectors, config)
    sentences = sum(len(pair.usages) for pair in pairs)
    say(f"{config.members} matchers trained on {sentences:,} sentences: {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    prototypes = PrototypicalNetwork(pairs, vectors, config)
    say(f"prototypical network trained on the same: {time.perf_counter() - began:.0f} s")
    return Learnt(Encoders(matcher, vectors, train_parts(pairs, config.seed)), prototypes, run_encoder)


def build_methods(task: HonestTask, learnt: Learnt, variant: Variant, shots: int) -> dict[str, Matching]:
    """Return every method by name, taught nothing; ours with weights fitted on the validation words."""
    from rhapsode.evaluation.oneshot.wordnet_trained import FineTuning

    methods: dict[str, Matching] = {
        "majority": Majority(),
        "bm25": Lexical("bm25"),
        "tf_idf": Lexical("tf_idf"),
        "random_nearest": NearestVector(random_encoder(_RANDOM_WIDTH, task.seed)),
        "frozen_nearest": NearestVector(learnt.encoders.vectors.encode),
        "prototypical": learnt.prototypes.copy(),
    }
    if shots == _TRAINED_SHOTS:
        methods["fine_tuning"] = FineTuning(learnt.encoders.vectors, replay=False, seed=task.seed)
        methods["replay"] = FineTuning(learnt.encoders.vectors, replay=True, seed=task.seed)
        if learnt.run_encoder is not None:
            methods["run_nearest"] = NearestVector(learnt.run_encoder)
    methods[OURS] = build_ours(task, learnt, variant, shots)
    return methods


def build_ours(task: HonestTask, learnt: Learnt, variant: Variant, shots: int) -> WordMemory:
    """Return our memory, empty, with weights fitted on the validation words."""
    round_ = make_round(task, variant, shots, "validation", only_split=True)
    fitted = WordMemory(learnt.encoders, task.irregular)
    fitted.teach(round_.entries)
    weights = fit_weights(fitted.features(round_.queries), round_.targets)
    return WordMemory(learnt.encoders, task.irregular, weights.tolist())


def measure(task: HonestTask, learnt: Learnt, variant: Variant, shots: int) -> list[dict[str, Any]]:
    """Return the rows of accuracy and abstention of every method for one variant and number of shots."""
    round_ = make_round(task, variant, shots, "test")
    if not round_.queries:
        return []
    draws = draw_candidates(round_, task.config.num_ways, task.seed)
    rows: list[dict[str, Any]] = []
    right_of: dict[tuple[str, str], np.ndarray] = {}
    for name, method in build_methods(task, learnt, variant, shots).items():
        began = time.perf_counter()
        method.teach(round_.entries)
        taught = time.perf_counter() - began
        scores = method.scores(round_.queries)
        seconds = {"teach_seconds": taught, "seconds": time.perf_counter() - began}
        head = {"method": name, "variant": variant, "shots": shots}
        for ways, candidates in draws.items():
            right = right_of[name, ways] = answers_right(scores, round_, candidates)
            accuracy = proportion(right, round_.clusters)
            words = len(round_.entries) if candidates is None else candidates.shape[1]
            rows.append({"measure": "accuracy", **head, "ways": ways, "words": words, "accuracy": accuracy, **seconds})
        rows.append({"measure": "abstention", **head, **measure_abstention(scores, round_)})
    for row in rows:
        if row["measure"] == "accuracy" and row["method"] == OURS:
            rivals = {name: right for (name, ways), right in right_of.items() if ways == row["ways"] and name != OURS}
            row["best_control"] = best = max(rivals, key=lambda name: float(rivals[name].mean()))
            row["minus_best_control"] = difference(right_of[OURS, row["ways"]], rivals[best], round_.clusters)
    return rows


def measure_retention(task: HonestTask, learnt: Learnt, variant: Variant) -> list[dict[str, Any]]:
    """Ask the same queries after further words: how many right answers still are, and what a write costs."""
    shots = _TRAINED_SHOTS
    round_ = make_round(task, variant, shots, "test")
    methods: Mapping[str, Matching] = {
        "bm25": Lexical("bm25"),
        "frozen_nearest": NearestVector(learnt.encoders.vectors.encode),
        "prototypical": learnt.prototypes.copy(),
        OURS: build_ours(task, learnt, variant, shots),
    }
    rows = []
    for name, method in methods.items():
        method.teach(round_.entries)
        before = answers_right(method.scores(round_.queries), round_)
        known = [cluster for cluster, right in zip(round_.clusters, before.tolist(), strict=True) if right]
        taught = 0
        for number in task.config.further:
            more = task.further_entries(number)[taught:]
            times = _teach_one_by_one(method, more)
            taught += len(more)
            after = answers_right(method.scores(round_.queries), round_)
            head = {"measure": "retention", "method": name, "variant": variant, "shots": shots, "further": taught}
            retention, accuracy = proportion(after[before], known), proportion(after, round_.clusters)
            write = {"write_ms_median": float(np.median(times)), "write_ms_p99": float(np.quantile(times, 0.99))}
            rows.append({**head, "retention": retention, "accuracy": accuracy, **(write if more else {})})
    return rows


def _teach_one_by_one(method: Matching, entries: Sequence[Any]) -> list[float]:
    times = []
    for entry in entries:
        began = time.perf_counter()
        method.teach([entry])
        times.append((time.perf_counter() - began) * 1e3)
    return times or [0.0]

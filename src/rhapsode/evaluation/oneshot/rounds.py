"""One round of the honest task: what every method is taught and asked, and which answers are right. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rhapsode.evaluation.oneshot.metrics import abstention
from rhapsode.evaluation.oneshot.wordnet_task import Entry, HonestTask, Query, Variant


@dataclass(frozen=True)
class Round:
    """A variant with a number of shots; every entry has that many sentences.

    Words with fewer are left out, as answers too: otherwise the number of sentences would give the answer away.

    Attributes:
        entries: of N words.
        queries: about some of them.
        targets: (Q,) which entry each query is about.
        labels: (N,) two words with one label are the same answer: blanked, words of one sense cannot be told apart.
        senses: (N,) the sense of every word.
        asked: (M,) the entries that can be asked about.
    """

    entries: list[Entry]
    queries: list[Query]
    targets: Int[np.ndarray, " Q"]
    labels: np.ndarray
    senses: np.ndarray
    asked: Int[np.ndarray, " M"]

    @property
    def clusters(self) -> list[str]:
        """The sense of every query: sentences of one sense are alike."""
        return [str(sense) for sense in self.senses[self.targets]]


def make_round(task: HonestTask, variant: Variant, shots: int, split: str, *, only_split: bool = False) -> Round:
    """Make the round of a variant: all words are taught, or `only_split`, and those of the split are asked about."""
    chosen = [i for i, word in enumerate(task.words) if len(word.usages) > shots]
    if only_split:
        chosen = [i for i in chosen if task.words[i].split == split]
    position = {number: place for place, number in enumerate(chosen)}
    entries = task.entries(variant, shots)
    targets, queries = task.queries(variant, shots, split)
    words = [task.words[i] for i in chosen]
    return Round(
        entries=[entries[i] for i in chosen],
        queries=queries,
        targets=np.array([position[target] for target in targets], dtype=np.int64),
        labels=np.array([word.sense if variant == "blanked" else word.lemma for word in words]),
        senses=np.array([word.sense for word in words]),
        asked=np.array([place for place, word in enumerate(words) if word.split == split], dtype=np.int64),
    )


def draw_candidates(round_: Round, num_ways: Sequence[int], seed: int) -> dict[str, Int[np.ndarray, "Q W"] | None]:
    """Return for each number of ways the candidates of every query, in random order, the right one among them.

    Others are words that can be asked about, of other senses, so that one answer is right. `all` is None: every entry.
    """
    random = np.random.default_rng([seed, 3])
    draws: dict[str, Int[np.ndarray, "Q W"] | None] = {}
    for ways in num_ways:
        rows = []
        for target in round_.targets:
            others = round_.asked[round_.senses[round_.asked] != round_.senses[target]]
            chosen = random.choice(others, min(ways - 1, len(others)), replace=False)
            rows.append(random.permutation([target, *chosen]))
        draws[str(ways)] = np.stack(rows)
    draws["all"] = None
    return draws


def answers_right(
    scores: Float[np.ndarray, "Q N"], round_: Round, candidates: Int[np.ndarray, "Q W"] | None = None
) -> Bool[np.ndarray, " Q"]:
    """Return whether the best candidate of each query is right; among equals, chance decides.

    Args:
        scores: columns beyond the round's entries are of further words, which are never right.
        candidates: None for all columns.
    """
    if candidates is None:
        order = np.random.default_rng(0).permutation(scores.shape[1])
        best = order[scores[:, order].argmax(axis=1)]
    else:
        chosen = np.take_along_axis(scores, candidates, axis=1).argmax(axis=1)
        best = candidates[np.arange(len(candidates)), chosen]
    known = best < len(round_.labels)
    found = round_.labels[np.where(known, best, 0)]
    return np.asarray(known & (found == round_.labels[round_.targets]))


def measure_abstention(scores: Float[np.ndarray, "Q N"], round_: Round) -> dict[str, Any]:
    """Ask about taught and about untaught words: half of the senses asked about are taken out of the memory.

    Confidence is the best score that is left. A quarter of the senses calibrates, a quarter is judged. Returns what
    `abstention` does, or `auroc` None where there are too few senses.
    """
    number = {sense: i for i, sense in enumerate(sorted(set(round_.clusters)))}
    group = np.array([number[sense] % 4 for sense in round_.clusters])
    if len(number) < 4:
        return {"auroc": None}
    taught = np.array([sense not in number or number[sense] % 4 > 1 for sense in round_.senses.tolist()])
    left = np.where(taught, scores, -np.inf)
    confidence = left.max(axis=1).astype(np.float64)
    right, asked = answers_right(left, round_), group > 1
    return abstention(confidence[asked], right[asked], confidence[group == 0], confidence[group == 1])

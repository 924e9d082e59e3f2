"""Drafts for one text after another, and what was learnt about them on the way."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer

from rhapsode.generation.drafting import phases as steps
from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.costs import CostModel
from rhapsode.generation.drafting.phases import Draft, Sources
from rhapsode.generation.drafting.tables import ORDERS, NgramTable, build_table, make_table

_CHOICE_CELLS = 1 << 18
_MOST_LOOKUP_CELLS = 1 << 20
_NUM_BUCKETS = 4
_START_TRIALS = 6.0


class Drafter:
    """The sources that outlive a text, and what is known of their acceptance and of the costs of a pass.

    One serves all generations of a model, one after another or interleaved: whatever it holds, `exact` returns the
    same. It grows no further than its tables, 16 bytes x 2^18 for choices beside that of the training text.
    """

    def __init__(self, training: Integer[np.ndarray, " N"] | None = None, phases: PhaseConfig | None = None) -> None:
        """Index the training text, if there is one; see `build_table` for the cost."""
        self.phases = phases or PhaseConfig()
        use = training is not None and self.phases.training
        self.training: NgramTable = build_table(training) if training is not None and use else make_table(1)
        self.choices: NgramTable = make_table(_CHOICE_CELLS)
        self.costs = CostModel()
        self._acceptance: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def begin(self, prompt: Integer[np.ndarray, " N"], max_new_tokens: int, regime: Any = None) -> "DraftSession":
        """Return a session for one text.

        Args:
            regime: acceptance is learnt for each apart; sampling and greedy decoding accept differently.
        """
        if regime not in self._acceptance:
            self._acceptance[regime] = start_acceptance()
        return DraftSession(self, prompt, max_new_tokens, *self._acceptance[regime])


def start_acceptance() -> tuple[Float64[np.ndarray, "3 O V"], Float64[np.ndarray, "3 O V"]]:
    """Return estimates before anything was tried, and the trials they count for: surer for longer contexts."""
    by_order = np.array([0.15, 0.3, 0.45, 0.55, 0.6, 0.65, 0.75, 0.8, 0.85, 0.9])
    assert len(by_order) == len(ORDERS)
    estimates = np.tile(by_order[None, :, None], (3, 1, _NUM_BUCKETS)) * np.array([0.85, 0.95, 1.0, 1.05])
    estimates[steps.TRAINING] *= 0.8
    return estimates, np.full_like(estimates, _START_TRIALS)


class DraftSession:
    """Drafts for one text."""

    def __init__(
        self,
        drafter: Drafter,
        prompt: Integer[np.ndarray, " N"],
        max_new_tokens: int,
        estimates: np.ndarray,
        trials: np.ndarray,
    ) -> None:
        """Encode the prompt; see `Drafter.begin`."""
        self.phases = drafter.phases
        self.costs = drafter.costs
        self._estimates, self._trials = estimates, trials
        # room for a draft behind the last id.
        self._ids = np.zeros(len(prompt) + max_new_tokens + self.phases.max_draft + 1, dtype=np.int64)
        self._ids[: len(prompt)] = prompt
        self._length = len(prompt)
        cells = min(_MOST_LOOKUP_CELLS, 2 * len(ORDERS) * len(self._ids)) if self.phases.lookup else 1
        self._sources = Sources(make_table(cells), drafter.choices, drafter.training)
        self._draft = Draft(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
        steps.encode_context(self._sources, self._ids, 0, self._length, self.phases)

    def add(self, ids: list[int]) -> None:
        """Tell which ids the text goes on with. Mutates."""
        start = self._length
        self._length += len(ids)
        self._ids[start : self._length] = ids
        steps.encode_context(self._sources, self._ids, start, self._length, self.phases)

    def draft(self, most: int) -> list[int]:
        """Return at most `most` ids that may come next, none if that does not pay."""
        most = min(most, self.phases.max_draft)
        if most < 1:
            found = Draft(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
        else:
            costs = self.costs.costs(most + 1)
            found = steps.make_sharp(self._sources, self._estimates, self._ids, self._length, costs, self.phases)
        self._draft = found
        drafted: list[int] = found.ids.tolist()
        return drafted

    def fill(self, count: int) -> list[int]:
        """Return up to `count` ids, however unlikely the model is to accept them."""
        if count < 1:
            return []
        found = steps.make_coherent(
            self._sources, self._estimates, self._ids, self._length, count, self.phases, is_text=True
        )
        drafted: list[int] = found.ids.tolist()
        return drafted

    def finish(self, ids: list[int], accepted: int, likeliest: Int64[np.ndarray, " C"], num_judged: int) -> None:
        """`learn` and then `add`, in one call. Mutates."""
        steps.finish(
            self._sources,
            (self._estimates, self._trials),
            self._ids,
            self._length,
            self._draft,
            (accepted, num_judged),
            likeliest,
            np.array(ids),
            self.phases,
        )
        self._length += len(ids)

    def learn(self, accepted: int, choices: list[int], num_judged: int) -> None:
        """Learn from the last draft: `accepted` of its ids were right. Call before `add`. Mutates.

        Args:
            choices: the likeliest id after the text as it was, and after each of the first drafted ids.
            num_judged: how many drafted ids the model had a say about.
        """
        steps.settle(self._estimates, self._trials, self._draft, accepted, num_judged)
        length = self._length + len(choices) - 1
        self._ids[self._length : length] = self._draft.ids[: len(choices) - 1]
        steps.refine(self._sources, self._ids, length, np.array(choices, dtype=np.int64), self.phases)

"""The five phases of parallel generation, one function each.

1. `encode_context`: the text so far becomes something to look drafts up in (the model reads it elsewhere).
2. `draft_positions`: every source drafts all positions by itself, by continuing what it matched.
3. `make_coherent`: one draft of all sources, whose every id fits what stands before it.
4. `sharpen`: only as many positions, and ids, as are expected to pay.
5. `refine`: what the model said when it verified the draft (`generation.speculation`) sharpens the next one.

After "QSG" of the HSMN document, whose five phases sampled all positions independently. Drafting from n-grams: Yang et
al. 2023 (arXiv 2304.04487), Saxena 2023 (prompt lookup); the model's own rejected continuations: Fu et al. 2024 (arXiv
2402.02057); verifying: Leviathan et al. 2023 (arXiv 2211.17192), Stern et al. 2018 (arXiv 1811.03115).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from rhapsode.generation.drafting import kernels
from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.tables import NgramTable

LOOKUP, CHOICES, TRAINING = range(3)
"""The sources: prompt and output; what the model chose earlier; the training text."""
_FLOOR = 0.02
_FIXED_LENGTH = 8
_WIDTH = 4
_DECAY = 0.99


class Sources(NamedTuple):
    """A table a source, in the order of the constants."""

    lookup: NgramTable
    choices: NgramTable
    training: NgramTable


@dataclass(frozen=True)
class Draft:
    """Ids, the chance that each is accepted if all before it are, and the cell of the estimates it came from."""

    ids: Int64[np.ndarray, " N"]
    chances: Float64[np.ndarray, " N"]
    cells: Int64[np.ndarray, " N"]


def encode_context(sources: Sources, ids: Int64[np.ndarray, " N"], start: int, stop: int, phases: PhaseConfig) -> None:
    """Index ids[start:stop] of the text for lookup. Mutates the table; O(stop - start)."""
    if phases.lookup:
        kernels.learn(sources.lookup, ids, start, stop, True)


def draft_positions(
    sources: Sources, estimates: np.ndarray, ids: Int64[np.ndarray, " N"], length: int, most: int, phases: PhaseConfig
) -> list[Draft]:
    """Let every source that is on draft up to `most` ids after ids[:length], each by itself."""
    return [
        _walk(sources, estimates, ids, length, (source, source + 1), min(most, phases.max_draft))
        for source in _enabled(phases)
    ]


def make_coherent(
    sources: Sources,
    estimates: np.ndarray,
    ids: Int64[np.ndarray, " N"],
    length: int,
    most: int,
    phases: PhaseConfig,
    *,
    is_text: bool = False,
) -> Draft:
    """Return one draft of all sources together; see `PhaseConfig.coherent`.

    Args:
        is_text: the draft is the text itself, so it goes on for `most` ids however unlikely they are.
    """
    if is_text:
        # the sources take turns id by id whatever the setting: one that ends its match would end the text.
        bounds = (_enabled(phases)[0], TRAINING + 1) if _enabled(phases) else (0, 0)
        return _walk(sources, estimates, ids, length, bounds, most, floor=0.0)
    most = min(most, phases.max_draft)
    if phases.coherent == "none":
        drafts = draft_positions(sources, estimates, ids, length, most, phases)
        return max(drafts, key=lambda draft: float(np.cumprod(draft.chances).sum()), default=_none())
    enabled = _enabled(phases)
    if not enabled:
        return _none()
    bounds = (enabled[0], enabled[-1] + 1)
    if phases.coherent == "walk":
        return _walk(sources, estimates, ids, length, bounds, most)
    draft = _empty(most)
    size = kernels.search(
        sources, estimates, ids, length, *bounds, most, _FLOOR, _WIDTH, draft.ids, draft.chances, draft.cells
    )
    return _cut(draft, size)


def sharpen(draft: Draft, costs: Float64[np.ndarray, " N_plus_1"], phases: PhaseConfig) -> Draft:
    """Keep the positions with the most ids expected a second.

    With S_i the chance that the first i drafted ids are accepted and c(n) the cost of n positions, that is the k with
    the largest (1 + S_1 + ... + S_k) / c(k + 1); it may be 0.
    """
    if not phases.sharpen:
        return _cut(draft, _FIXED_LENGTH)
    return _cut(draft, kernels.best_length(draft.chances, costs)) if len(draft.ids) else draft


def make_sharp(
    sources: Sources,
    estimates: np.ndarray,
    ids: Int64[np.ndarray, " N"],
    length: int,
    costs: Float64[np.ndarray, " C"],
    phases: PhaseConfig,
) -> Draft:
    """`make_coherent` for one position less than there are costs, and `sharpen`; a walk ends where no more can pay."""
    enabled = _enabled(phases)
    if phases.coherent != "walk" or not phases.sharpen or not enabled:
        found = make_coherent(sources, estimates, ids, length, len(costs) - 1, phases)
        return sharpen(found, costs, phases)
    draft = _empty(len(costs) - 1)
    bounds = (enabled[0], enabled[-1] + 1)
    arrays = (costs, draft.ids, draft.chances, draft.cells)
    return _cut(draft, kernels.walk_as_it_pays(sources, estimates, ids, length, *bounds, _FLOOR, *arrays))


def finish(
    sources: Sources,
    learnt: tuple[np.ndarray, np.ndarray],
    ids: Int64[np.ndarray, " N"],
    length: int,
    draft: Draft,
    counts: tuple[int, int],
    choices: Int64[np.ndarray, " C"],
    new: Int64[np.ndarray, " K"],
    phases: PhaseConfig,
) -> None:
    """`settle` and `refine` a verified draft, put the new ids behind ids[:length], and `encode_context` them. Mutates.

    Args:
        learnt: estimates and trials.
        counts: drafted ids that were accepted, and those that were judged.
    """
    switches = (phases.refine, phases.lookup)
    kernels.finish(sources, *learnt, ids, length, draft.ids, draft.cells, *counts, choices, new, *switches, _DECAY)


def refine(
    sources: Sources, ids: Int64[np.ndarray, " N"], length: int, choices: Int64[np.ndarray, " C"], phases: PhaseConfig
) -> None:
    """Remember the model's likeliest id after each of the last prefixes of ids[:length], rejected ones too. Mutates."""
    if phases.refine:
        kernels.learn_choices(sources.choices, ids, length, choices, len(choices))


def settle(estimates: np.ndarray, trials: np.ndarray, draft: Draft, accepted: int, num_judged: int) -> None:
    """Learn from a verified draft how far its sources can be trusted. Mutates."""
    tried = min(len(draft.ids), num_judged, accepted + 1)
    if tried:
        kernels.settle(estimates, trials, draft.cells, accepted, tried, _DECAY)


def _enabled(phases: PhaseConfig) -> list[int]:
    # a source that is off has an empty table, so a range of them may include it.
    switches = {LOOKUP: phases.lookup, CHOICES: phases.refine, TRAINING: phases.training}
    return [source for source, on in switches.items() if on]


def _walk(
    sources: Sources,
    estimates: np.ndarray,
    ids: Int64[np.ndarray, " N"],
    length: int,
    bounds: tuple[int, int],
    most: int,
    floor: float = _FLOOR,
) -> Draft:
    draft = _empty(most)
    size = kernels.walk(sources, estimates, ids, length, *bounds, most, floor, draft.ids, draft.chances, draft.cells)
    return _cut(draft, size)


def _empty(size: int) -> Draft:
    return Draft(np.zeros(size, np.int64), np.zeros(size), np.zeros(size, np.int64))


def _none() -> Draft:
    return _empty(0)


def _cut(draft: Draft, size: int) -> Draft:
    return Draft(draft.ids[:size], draft.chances[:size], draft.cells[:size])

import numpy as np
import pytest

from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.generation.drafting.phases import Draft, sharpen


def draft_of(*chances: float) -> Draft:
    return Draft(np.arange(len(chances)), np.array(chances), np.zeros(len(chances), dtype=np.int64))


@pytest.mark.parametrize("seed", range(5))
def test_sharpening_keeps_the_length_with_the_best_rate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances, costs = rng.random(10), 1 + np.cumsum(rng.random(11)) * 0.2
    kept = len(sharpen(draft_of(*chances), costs, PhaseConfig()).ids)
    rates = [(1 + np.cumprod(chances)[:size].sum()) / costs[size] for size in range(11)]
    assert kept == int(np.argmax(rates))


def test_what_does_not_pay_is_not_drafted() -> None:
    costs = 1 + 0.5 * np.arange(11)
    assert len(sharpen(draft_of(*[0.1] * 10), costs, PhaseConfig()).ids) == 0
    assert len(sharpen(draft_of(*[1.0] * 10), costs, PhaseConfig()).ids) == 10
    assert len(sharpen(draft_of(*[0.1] * 10), costs, PhaseConfig(sharpen=False)).ids) == 8
    assert len(sharpen(draft_of(), costs, PhaseConfig()).ids) == 0


def drafted(
    phases: PhaseConfig, training: list[int] | None, prompt: list[int], choices: list[int] | None = None
) -> list[int]:
    drafter = Drafter(None if training is None else np.array(training), phases)
    drafter.costs.calibrate(lambda count: 1e-3, 2)
    session = drafter.begin(np.array(prompt), 50)
    if choices is not None:
        session.draft(1)
        session.learn(0, choices, 0)
    return session.fill(4)


def test_every_source_drafts_by_itself() -> None:
    loop = [1, 2, 3, 4, 5] * 3
    nothing: dict[str, bool] = {"lookup": False, "training": False, "refine": False}
    assert drafted(PhaseConfig(**nothing), loop, loop, [1]) == []
    assert drafted(PhaseConfig(**{**nothing, "lookup": True}), None, loop) == [1, 2, 3, 4]
    assert drafted(PhaseConfig(**{**nothing, "training": True}), loop, [9, 4, 5]) == [1, 2, 3, 4]
    assert drafted(PhaseConfig(**{**nothing, "refine": True}), None, [7, 8, 9], [6]) == [6]


@pytest.mark.parametrize("coherent", ["none", "walk", "viterbi"])
def test_every_way_to_make_drafts_coherent_copies_a_loop(coherent: str) -> None:
    phases = PhaseConfig.model_validate({"coherent": coherent, "sharpen": False})
    drafter = Drafter(np.array([3, 9, 9, 3]), phases)
    drafter.costs.calibrate(lambda count: 1e-3, 2)
    session = drafter.begin(np.array([1, 2, 3, 4, 5] * 4), 50)
    assert session.draft(30) == [1, 2, 3, 4, 5, 1, 2, 3]
    assert session.draft(2) == [1, 2]
    assert session.draft(0) == []


def test_a_session_follows_its_text_and_the_next_one_knows_what_was_chosen() -> None:
    drafter = Drafter()
    drafter.costs.calibrate(lambda count: 1e-3, 2)
    session = drafter.begin(np.array([1, 2, 3]), 50)
    session.draft(4)
    session.learn(0, [7], 0)
    session.add([7, 8, 1, 2, 3])
    assert session.fill(3) == [7, 8, 1]
    assert drafter.begin(np.array([5, 1, 2, 3]), 50).fill(1) == [7]


@pytest.mark.parametrize("phases", [{}, {"lookup": False}, {"refine": False}])
def test_learning_in_one_call_is_learning_and_going_on(phases: dict[str, bool]) -> None:
    found = []
    for at_once in (True, False):
        drafter = Drafter(None, PhaseConfig(**phases))
        drafter.costs.calibrate(lambda count: 1e-3 * (1 + 0.05 * count), 8)
        session = drafter.begin(np.array([1, 2, 3, 4, 5] * 3), 80)
        rng = np.random.default_rng(0)
        drafts = []
        for _ in range(12):
            draft = session.draft(6)
            right = int(rng.integers(0, len(draft) + 1))
            new = [*draft[:right], int(rng.integers(0, 6))]
            choices = rng.integers(0, 6, len(draft) + 1)
            if at_once:
                session.finish(new, right, choices, len(draft))
            else:
                session.learn(right, choices.tolist(), len(draft))
                session.add(new)
            drafts.append(draft)
        found.append((drafts, session._estimates.tolist(), drafter.choices.ids.tolist()))
    assert found[0] == found[1]

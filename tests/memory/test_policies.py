"""The policies say what they say with the numbers that are documented."""

import numpy as np
import pytest

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.memory.policies import KeyValueConfig, Policies, forgettable, read_weights, utility, writes


def test_the_defaults_are_those_of_the_document() -> None:
    policies = Policies()
    assert policies.surprise_threshold == 0.3
    assert policies.top_k == 5
    assert (policies.consolidate_every, policies.consolidate_above) == (10, 0.85)
    assert policies.forget_below == 0.10


def test_surprise_writes_above_its_threshold_only() -> None:
    losses = np.array([0.1, 0.3, 0.31])
    assert writes("surprise", losses, 0.3).tolist() == [False, False, True]
    assert writes("all", losses, 0.3).tolist() == [True, True, True]


def test_utility_is_the_documented_sum() -> None:
    value = utility(np.array([0.5, 0.05]), np.array([200, 1]), np.array([50, 0]))
    # the second is a memory seen once: below 0.10, so that it was deleted before it could help.
    assert value == pytest.approx([0.4 * 0.5 + 0.2 * 1 + 0.3 * 0.25, 0.4 * 0.05 + 0.2 * 0.01])


def test_protection_spares_what_was_never_tried() -> None:
    low, uses = np.array([0.02, 0.02, 0.5]), np.array([0, 1, 0])
    assert forgettable("off", low, uses, 0.1).tolist() == [False, False, False]
    assert forgettable("utility", low, uses, 0.1).tolist() == [True, True, False]
    assert forgettable("protected", low, uses, 0.1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("policy", "wanted"), [("top1", [1, 0, 0]), ("mean", [0.5, 0.5, 0]), ("attention", [0.7311, 0.2689, 0])]
)
def test_reading_weighs_what_was_found(policy: str, wanted: list[float]) -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.9, -np.inf, -np.inf], [-np.inf, -np.inf, -np.inf]])
    weights = read_weights(policy, scores, 2, 0.1)  # type: ignore[arg-type]
    assert weights[0] == pytest.approx(wanted, abs=1e-4)
    assert weights[1].tolist() == [1, 0, 0]
    assert weights[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_entries": 0}, "memory.max_entries must be greater than or equal to 1; got 0"),
        ({"similarity": "cosin"}, "memory.similarity must be 'cosine' or 'dot'; got 'cosin'"),
        ({"evicts": "oldest"}, "Did you mean 'evict'"),
    ],
)
def test_a_wrong_setting_is_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(KeyValueConfig, settings, "memory")

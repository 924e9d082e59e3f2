"""The comparison: rows for every preset by one function, the same whichever way they are run."""

from typing import Any

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.evaluation.oneshot import run_oneshot
from rhapsode.evaluation.oneshot.presets import CONTROLS, PRESETS, Preset, choose_presets
from rhapsode.evaluation.oneshot.task import TaskConfig

TINY = TaskConfig(words_with={1: 4, 2: 2}, test_stories=2, more_words=3, untaught_words=4)


def make_small(name: str, **training: Any) -> dict[str, Preset]:
    """A preset with a tiny encoder and a few steps."""
    preset = PRESETS[name]
    small = {"width": 16, "num_layers": 1, "num_heads": 2, "steps": 3, "learning_rate": 1e-2, **training}
    swarm = preset.swarm.model_copy(update={"iterations": 2, "agents_per_manager": 2})
    training_config = preset.training.model_copy(update=small)
    return {name: preset.model_copy(update={"training": training_config, "swarm": swarm})}


def test_controls_always_come_and_names_are_checked() -> None:
    assert list(choose_presets("baseline3")) == ["baseline3", "bag_of_words", "majority"]
    assert list(choose_presets("all")) == [*PRESETS, *CONTROLS]
    assert {"current", "baseline1", "baseline2", "baseline3", "option1", "option2", "rhapsode"} <= set(PRESETS)
    with pytest.raises(UserError, match=r"--preset must be one of .*; got 'optoin1'. Did you mean 'option1'"):
        choose_presets("optoin1")


def test_the_presets_have_the_document_s_numbers() -> None:
    current, option1 = PRESETS["current"], PRESETS["option1"]
    assert current.policies is not None
    assert option1.policies is not None
    assert current.policies.memory.max_entries == 400
    assert (current.training.steps, current.training.width, current.training.num_layers) == (50, 256, 4)
    swarm = current.swarm
    assert (swarm.managers, swarm.agents_per_manager, swarm.iterations) == (2, 5, 10)
    assert (swarm.lowest_rate, swarm.highest_rate, swarm.highest_top_k) == (1e-5, 1e-3, 10)
    assert (option1.policies.surprise_threshold, option1.policies.memory.max_entries) == (0.05, 1000)
    assert (option1.training.optimizer, option1.training.learning_rate, option1.training.steps) == ("adam", 1e-4, 100)


def test_simple_methods_give_whole_rows_and_ours_is_right() -> None:
    rows = {row["preset"]: row for row in run_oneshot("baseline3,rhapsode", [0], TaskConfig(more_words=20))}
    assert list(rows) == ["baseline3", "rhapsode", "bag_of_words", "majority"]
    for row in rows.values():
        assert {"one_shot", "hit_rate", "retention", "mean_gate", "written", "deleted", "seconds", "policies"} <= set(
            row
        )
        assert row["one_shot"]["n"] == 100
        low, high = row["one_shot"]["interval"]
        assert 0 <= low <= row["one_shot"]["value"] <= high <= 1
    assert rows["rhapsode"]["one_shot"]["value"] == rows["rhapsode"]["retention"]["value"] == 1
    assert rows["rhapsode"]["abstention"]["auroc"] > 0.99
    assert rows["baseline3"]["hit_rate"]["value"] == rows["baseline3"]["all_shots"]["value"] > 0.8
    assert rows["majority"]["hit_rate"] == {"value": None, "n": 0, "interval": None}
    assert rows["majority"]["one_shot"]["value"] < 0.2


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.method == "trained"])
def test_every_trained_preset_runs_and_repeats(name: str) -> None:
    chosen = make_small(name)
    said: list[str] = []
    (row,) = run_oneshot(chosen, [0, 1], TINY, progress=said.append)
    (again,) = run_oneshot(chosen, [0, 1], TINY, workers=2)
    for key in row:
        assert again[key] == row[key] or key == "seconds"
    assert (row["mean_gate"] is not None) == (name not in ("baseline1", "option2", "option2_reencoded"))
    assert (row["hit_rate"]["value"] is None) == (name == "baseline1")
    assert (row["written"] > 0) == (name != "baseline1")
    assert row["steps"] == (2 * 4 * 2 * 3 if name == "current" else 2 * 3)
    assert said[0].startswith(f"{name}: ")
    assert " steps for 2 seeds" in said[0]


def test_a_preset_without_memory_cannot_answer_by_it() -> None:
    preset = PRESETS["baseline1"].model_copy(update={"answer": "nearest"})
    with pytest.raises(UserError, match="answer must be classifier for a preset without policies; got nearest"):
        run_oneshot({"x": preset}, [0], TINY)


def test_seconds_of_teaching_are_told() -> None:
    (row,) = run_oneshot({"bag": CONTROLS["bag_of_words"]}, [0], TINY)
    assert 0 < row["seconds"] < 5
    assert np.isfinite(row["mean_similarity"])

"""A calibration that outlives the process, and nothing else."""

import json
from pathlib import Path

import pytest

from answering.conftest import Teach
from answering.test_calibration import grid
from rhapsode.answering import AskConfig, calibrate
from rhapsode.answering import calibration as measuring
from rhapsode.answering.calibration_file import calibrate_with_file
from rhapsode.errors import UserError
from rhapsode.memory.contracts import Item
from rhapsode.memory.store import SQLiteStore

CONFIG = AskConfig()


def from_file(store: SQLiteStore, path: Path, config: AskConfig = CONFIG, space: str = "default") -> object:
    # as a fresh process: nothing is remembered but the file.
    measuring._CALIBRATIONS.clear()
    return calibrate_with_file(store, path, "encoder", space, config)


def test_a_fresh_process_reads_what_was_measured(teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = teach(grid(30)), tmp_path / "calibration.json"
    expected = calibrate(store)
    assert from_file(store, path) == expected
    with monkeypatch.context() as patch:
        patch.setattr("rhapsode.answering.calibration_file.calibrate", None)
        assert from_file(store, path) == expected
        with pytest.raises(TypeError):
            from_file(store, path, AskConfig(error_rate=0.2))
        with pytest.raises(UserError, match="space"):
            from_file(store, path, space="nowhere")


def test_a_change_of_the_store_measures_again(teach: Teach, tmp_path: Path) -> None:
    store, path = teach(grid(30)), tmp_path / "calibration.json"
    before = from_file(store, path)
    ids = store.write([Item("A new fact about the zorblatt.")]).ids
    assert from_file(store, path) == calibrate(store) != before
    store.forget(ids)
    assert from_file(store, path) == before
    assert "zorblatt" not in path.read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"calibration": {"threshold": 1}}}'])
def test_half_a_file_is_replaced(teach: Teach, tmp_path: Path, content: str) -> None:
    store, path = teach(grid(25)), tmp_path / "calibration.json"
    path.write_text(content)
    assert from_file(store, path) == calibrate(store)
    assert len(json.loads(path.read_text())) == 1


def test_without_a_place_to_write_it_is_measured(teach: Teach, tmp_path: Path) -> None:
    store = teach(grid(25))
    assert from_file(store, tmp_path / "missing" / "calibration.json") == calibrate(store)
    calibrate_with_file(store, tmp_path / "calibration.json", "encoder", "default", CONFIG, read_only=True)
    assert list(tmp_path.iterdir()) == []

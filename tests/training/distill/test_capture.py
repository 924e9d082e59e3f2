import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import read_json, write_json
from rhapsode.text.shards import TokenArray
from rhapsode.training.distill.capture import (
    CapturePlan,
    check_room,
    metadata,
    plan_capture,
    read_positions,
    run_capture,
)
from rhapsode.training.distill.decoder_teacher import DecoderTeacher
from rhapsode.training.distill.shards import Capture, read_spec, shard_paths, to_float16, write_shard, write_spec
from rhapsode.training.distill.streams import StreamSlice
from rhapsode.training.distill.teacher import Reading


def make_tokens(count: int = 301, seed: int = 0) -> TokenArray:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 259, count).astype(np.uint16)
    starts = np.array([start for start in (0, 100, 170) if start < count])
    ids[starts] = 1
    return TokenArray(ids, starts, count)


def make_plan(teacher: Any, tokens: TokenArray, folder: Path, **settings: Any) -> CapturePlan:
    settings = {"streams": None, "top_k": 8, "shard_positions": 64, **settings}
    return plan_capture(teacher, tokens, folder, **settings)


class Stopping:
    """A teacher that is stopped after so many readings, as Ctrl-C would."""

    def __init__(self, teacher: DecoderTeacher, readings: int) -> None:
        self._teacher = teacher
        self.left = readings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def read(self, ids: torch.Tensor) -> Reading:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self._teacher.read(ids)


def test_every_position_holds_what_the_teacher_does_there(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    capture = run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    assert len(capture) == 300
    np.testing.assert_array_equal(capture.ids, tokens.ids)
    rng = np.random.default_rng(1)
    for position in [0, 3, 299, *rng.integers(0, 300, 12).tolist()]:
        # the window in which the position stands in the second half.
        stride = teacher.context // 2
        stop = min(300, (position // stride + 1) * stride)
        start = max(0, stop - teacher.context)
        ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
        reading = teacher.read(ids)
        at = position - start
        found = capture.features(np.array([position]))[0]
        for stream in capture.spec.streams:
            if stream.name in reading.streams:
                expected = reading.streams[stream.name][0, at].numpy()
                # half a unit in the last place of float16, relative to each number.
                part = found[stream.offset : stream.offset + stream.width]
                np.testing.assert_allclose(part, expected, rtol=2**-10, atol=1e-6)
        said = capture.targets(np.array([position]))
        assert said.ids[0] == tokens.ids[position]
        assert said.next_ids[0] == tokens.ids[position + 1]
        log_probs = reading.log_probs[0, at].numpy()
        np.testing.assert_allclose(said.top_log_probs[0], np.sort(log_probs)[::-1][:8], rtol=2e-3)
        rest = np.delete(log_probs, said.top_ids[0])
        np.testing.assert_allclose(np.exp(said.tail_log_mass[0]), np.exp(rest).sum(), rtol=1e-2)
        np.testing.assert_allclose(said.nats[0], -log_probs[tokens.ids[position + 1]], rtol=1e-5)


def test_windows_are_put_together_from_positions(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    capture = run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c", streams=("hidden", "metadata")))
    wanted = np.array([1, 65, 299])
    windows = capture.windows(wanted, 4)
    assert windows.shape == (3, 4 * capture.spec.width)
    # before the text there is nothing.
    assert not windows[0, : 2 * capture.spec.width].any()
    for row, position in zip(windows, wanted, strict=True):
        for back in range(4):
            if position - back >= 0:
                end = (4 - back) * capture.spec.width
                expected = capture.features(np.array([position - back]))[0]
                np.testing.assert_array_equal(row[end - capture.spec.width : end], expected)


@pytest.mark.parametrize("readings", [0, 1, 3])
def test_a_capture_that_was_stopped_goes_on(teacher: DecoderTeacher, tmp_path: Path, readings: int) -> None:
    tokens = make_tokens()
    whole = run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "whole"))
    stopping = Stopping(teacher, readings)
    with pytest.raises(KeyboardInterrupt):
        run_capture(stopping, tokens, make_plan(stopping, tokens, tmp_path / "c"))
    plan = make_plan(teacher, tokens, tmp_path / "c")
    assert plan.done_shards < plan.spec.num_shards
    again = run_capture(teacher, tokens, plan)
    for shard in range(plan.spec.num_shards):
        name = shard_paths(Path(), shard)[0]
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_each_position_is_read_once(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    counting = Stopping(teacher, 10_000)
    run_capture(counting, tokens, make_plan(counting, tokens, tmp_path / "c"))
    used = 10_000 - counting.left
    run_capture(counting, tokens, make_plan(counting, tokens, tmp_path / "c"))
    assert 10_000 - counting.left == used


def test_a_shard_that_was_cut_short_is_made_again(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    first = run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    path, header = shard_paths(first.folder, 2)
    data = path.read_bytes()
    # the state after a kill between the two files: tensors half written, no JSON.
    path.write_bytes(data[: len(data) // 2])
    header.unlink()
    plan = make_plan(teacher, tokens, tmp_path / "c")
    assert plan.done_shards == plan.spec.num_shards - 1
    run_capture(teacher, tokens, plan)
    assert path.read_bytes() == data


def test_a_damaged_shard_is_an_error(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    path, _ = shard_paths(tmp_path / "c", 1)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StateError, match=r"must match its checksum in shard-00001\.json"):
        Capture(tmp_path / "c")
    with pytest.raises(StateError, match="must match its checksum"):
        make_plan(teacher, tokens, tmp_path / "c")


def test_a_shard_of_another_teacher_is_an_error(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    _, header = shard_paths(tmp_path / "c", 0)
    write_json(header, {**read_json(header), "teacher": "0" * 64})
    with pytest.raises(StateError, match="must be of the teacher of this capture"):
        Capture(tmp_path / "c")


def test_a_shard_of_other_settings_and_a_folder_that_cannot_be_are_errors(
    teacher: DecoderTeacher, tmp_path: Path
) -> None:
    tokens = make_tokens()
    plan = make_plan(teacher, tokens, tmp_path / "c", streams=("hidden",))
    run_capture(teacher, tokens, plan)
    begin, end = plan.spec.bounds(1)
    for width, message in (
        (plan.spec.width + 1, "must hold float16 features of"),
        (plan.spec.width, "must be a shard"),
    ):
        features = np.zeros((end - begin, width), dtype=np.float16)
        write_shard(tmp_path / "c", 1, teacher.fingerprint, {"features": features}, {})
        with pytest.raises(StateError, match=message):
            Capture(tmp_path / "c")
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"must be writable; got: Not a directory\. Choose another --cache"):
        write_spec(tmp_path / "file" / "c", plan.spec)


def test_a_capture_of_something_else_is_an_error(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    with pytest.raises(StateError, match="it is of another text"):
        make_plan(teacher, make_tokens(seed=5), tmp_path / "c")
    with pytest.raises(StateError, match="it is of another streams"):
        make_plan(teacher, tokens, tmp_path / "c", streams=("hidden",))
    with pytest.raises(StateError, match="must be captured from this teacher"):
        Capture(tmp_path / "c", "0" * 64)
    other = Stopping(teacher, 0)
    other.fingerprint = "1" * 64
    with pytest.raises(StateError, match="it is of another teacher"):
        make_plan(other, tokens, tmp_path / "c")


def test_a_missing_shard_and_a_damaged_specification_are_errors(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "c"))
    shard_paths(tmp_path / "c", 3)[1].unlink()
    with pytest.raises(StateError, match="shard 3 is missing"):
        Capture(tmp_path / "c")
    spec = tmp_path / "c" / "capture.json"
    values = json.loads(spec.read_text())
    spec.write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(StateError, match="another format version"):
        read_spec(tmp_path / "c")
    spec.write_text(json.dumps({name: value for name, value in values.items() if name != "streams"}))
    with pytest.raises(StateError, match="it is damaged"):
        read_spec(tmp_path / "c")


def test_numbers_past_float16_are_scaled_and_told(tmp_path: Path, teacher: DecoderTeacher) -> None:
    class Loud(Stopping):
        def read(self, ids: torch.Tensor) -> Reading:
            reading = super().read(ids)
            streams = {**reading.streams, "hidden": reading.streams["hidden"] * 1e6}
            return replace(reading, streams=streams)

    tokens, heard = make_tokens(), []
    loud = Loud(teacher, 10_000)
    capture = run_capture(loud, tokens, make_plan(loud, tokens, tmp_path / "c"), heard.append)
    assert any("past float16 in hidden" in sentence for sentence in heard)
    quiet = run_capture(teacher, tokens, make_plan(teacher, tokens, tmp_path / "q"))
    at = np.arange(300)
    hidden = next(s for s in capture.spec.streams if s.name == "hidden")
    part = slice(hidden.offset, hidden.offset + hidden.width)
    np.testing.assert_allclose(capture.features(at)[:, part], quiet.features(at)[:, part] * 1e6, rtol=3e-3, atol=50)


def test_numbers_that_are_not_finite_are_refused(teacher: DecoderTeacher) -> None:
    streams = (StreamSlice("hidden", 0, 2),)
    with pytest.raises(StateError, match="the teacher's hidden must be finite"):
        to_float16(np.array([[1.0, np.nan]], dtype=np.float32), streams)

    class Broken(Stopping):
        def read(self, ids: torch.Tensor) -> Reading:
            reading = super().read(ids)
            return replace(reading, log_probs=reading.log_probs * torch.nan)

    tokens = make_tokens()
    spec = make_plan(teacher, tokens, Path("nowhere")).spec
    with pytest.raises(StateError, match="the teacher's logits must be finite"):
        read_positions(Broken(teacher, 10), tokens, spec, 0, 64)


def test_the_disk_it_takes_is_told_before_it_starts(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    plan = make_plan(teacher, tokens, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    run_capture(teacher, tokens, plan)
    written = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.safetensors"))
    assert plan.spec.size_bytes <= written <= plan.spec.size_bytes + plan.spec.num_shards * 1000
    assert f"{plan.spec.size_bytes / 1e6:,.1f} MB" in plan.describe()


def test_a_disk_without_room_is_refused(
    teacher: DecoderTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(StateError, match=r"must have room for 10\d MB; got 1 MB free"):
        make_plan(teacher, make_tokens(), tmp_path / "c")


def test_a_disk_that_fills_leaves_what_is_whole(
    teacher: DecoderTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    tokens, real, calls = make_tokens(), os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    plan = make_plan(teacher, tokens, tmp_path / "c")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device"):
        run_capture(teacher, tokens, plan)
    monkeypatch.undo()
    plan = make_plan(teacher, tokens, tmp_path / "c")
    assert 0 < plan.done_shards < plan.spec.num_shards
    assert len(run_capture(teacher, tokens, plan)) == 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top_k": 0}, "training.top_k must lie between 1"), ({"top_k": 500}, "teacher's vocabulary 259; got 500")],
)
def test_wrong_settings_are_refused(
    teacher: DecoderTeacher, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(teacher, make_tokens(), tmp_path / "c", **settings)
    with pytest.raises(UserError, match="must hold at least 2 tokens"):
        make_plan(teacher, make_tokens(1), tmp_path / "c")


def test_nothing_but_the_distribution_can_be_kept(teacher: DecoderTeacher, tmp_path: Path) -> None:
    tokens = make_tokens()
    plan = make_plan(teacher, tokens, tmp_path / "c", streams=(), max_positions=100)
    assert plan.spec.width == 0
    capture = run_capture(teacher, tokens, plan)
    assert len(capture) == 100
    assert capture.features(np.arange(100)).shape == (100, 0)
    assert check_room(plan) is None


def test_metadata_knows_where_a_document_began(teacher: DecoderTeacher) -> None:
    tokens = make_tokens()
    rows = metadata(tokens.ids.astype(np.int64), tokens.doc_starts, teacher.tokenizer, 98, 103)
    np.testing.assert_allclose(rows[:, 1], np.log1p([98, 99, 0, 1, 2]) / 8, rtol=1e-6)
    assert rows[:, 2].tolist() == [0, 0, 1, 0, 0]
    assert rows[2, 0] == 0

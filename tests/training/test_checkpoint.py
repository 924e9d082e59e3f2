"""Checkpoints and weights on disk: whole or refused, with the reason."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rhapsode.errors import StateError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import (
    Progress,
    fill_parameters,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from tiny_runs import sha256


@pytest.fixture
def folder(out: Path) -> RunFolder:
    run = RunFolder(out)
    run.create()
    return run


def make_model(seed: int = 0, width: int = 8) -> Decoder:
    config = ModelConfig(embed="table", vocab_size=259, width=width, num_layers=1, num_heads=1, predict="tied")
    return build_decoder(config, seed)


def make_tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.a": torch.randn(3, 5, generator=generator),
        "optimizer.a.step": torch.tensor(7.0),
        "transposed": torch.randn(4, 6, generator=generator).T,
    }


def test_a_checkpoint_comes_back_as_it_was(folder: RunFolder) -> None:
    tensors, progress = make_tensors(0), Progress(12, 3.5, 1.25, 8, 2, 345)
    assert latest_checkpoint(folder) is None
    path = save_checkpoint(folder, tensors, progress)
    assert path.name == "step-00000012.json"
    assert latest_checkpoint(folder) == path
    loaded, counters = load_checkpoint(path)
    assert counters == progress
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert all(loaded[name].shape == tensors[name].shape for name in tensors)


def test_only_the_newest_checkpoint_stays(folder: RunFolder) -> None:
    for step in (9, 10, 100_000_000):
        (folder.checkpoints / f".step-{step:08d}.json.1.tmp").write_text("a crash left this")
        path = save_checkpoint(folder, make_tensors(step), Progress(step))
        assert latest_checkpoint(folder) == path
        assert sorted(p.name for p in folder.checkpoints.iterdir()) == [path.name, f"{path.stem}.safetensors"]


def test_a_checkpoint_without_its_json_does_not_exist(folder: RunFolder) -> None:
    path = save_checkpoint(folder, make_tensors(0), Progress(3))
    # what a crash between the two writes of the next one leaves.
    (folder.checkpoints / "step-00000004.safetensors").write_bytes(b"half")
    assert latest_checkpoint(folder) == path
    assert load_checkpoint(path)[1].step == 3


def test_no_folder_has_no_checkpoint(out: Path) -> None:
    assert latest_checkpoint(RunFolder(out)) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit"])
def test_damaged_tensors_are_refused(folder: RunFolder, damage: str) -> None:
    path = save_checkpoint(folder, make_tensors(0), Progress(3))
    tensors = path.with_suffix(".safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes({"truncated": bytes(data[:-9]), "empty": b"", "one bit": bytes(data)}[damage])
    with pytest.raises(StateError, match=r"step-00000003\.safetensors must match the checksum .* damaged or changed"):
        load_checkpoint(path)


def test_missing_tensors_are_refused(folder: RunFolder) -> None:
    path = save_checkpoint(folder, make_tensors(0), Progress(3))
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(StateError, match=r"step-00000003\.safetensors must be there beside step-00000003\.json"):
        load_checkpoint(path)


def test_a_foreign_or_damaged_header_is_refused(folder: RunFolder) -> None:
    path = save_checkpoint(folder, make_tensors(0), Progress(3))
    header = json.loads(path.read_text())
    path.write_text(json.dumps({"epoch": 1, "loss": 2.0}))
    with pytest.raises(StateError, match=r"must be a checkpoint of this program; its entries are \['epoch', 'loss'\]"):
        load_checkpoint(path)
    path.write_text(json.dumps({**header, "step": "three"}))
    with pytest.raises(StateError, match=r"must be a checkpoint of this program; its step is 'three'"):
        load_checkpoint(path)
    path.write_text(json.dumps(header)[:-5])
    with pytest.raises(StateError, match="must hold JSON, but it is damaged"):
        load_checkpoint(path)


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    model, twin, other = make_model(0), make_model(0), make_model(1)
    # the order in which a process has touched its parameters must not show.
    for parameter in reversed(list(twin.parameters())):
        parameter.data = parameter.data.clone()
    hashes = [save_weights(tmp_path / name, m) for name, m in (("a", model), ("b", twin), ("c", other))]
    assert hashes[0] == hashes[1] == sha256(tmp_path / "a")
    assert hashes[0] != hashes[2]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    header = json.loads((tmp_path / "a").read_bytes()[8:].partition(b"}}")[0] + b"}}")
    assert "__metadata__" not in header


def test_weights_come_back_and_tied_ones_once(tmp_path: Path) -> None:
    model, other = make_model(0), make_model(1)
    sha = save_weights(tmp_path / "w", model)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "w").values()) == model.num_parameters()
    load_weights(tmp_path / "w", other, sha)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    load_weights(tmp_path / "w", other, None)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(StateError, match=r"model\.safetensors must hold the weights of the run; it is missing"):
        load_weights(path, make_model(), None)
    sha = save_weights(path, make_model())
    with pytest.raises(StateError, match=r"must hold the weights of this recipe; '.*' is \(259, 8\) there and"):
        load_weights(path, make_model(width=12), sha)
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    with pytest.raises(StateError, match=r"must match the checksum in run\.json; it was damaged or changed"):
        load_weights(path, make_model(), sha)
    with pytest.raises(StateError, match="must be a safetensors file; got: "):
        load_weights(path, make_model(), None)
    save_file({"foreign": torch.ones(2)}, path)
    with pytest.raises(StateError, match=r"must hold the weights of this recipe; '.*' is in only one of them"):
        load_weights(path, make_model(), None)


def test_fill_parameters_names_where_it_read(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"^here must hold the weights of this recipe; "):
        fill_parameters(make_model(), {}, "here")

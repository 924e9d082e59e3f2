"""Checkpoints: what a resume needs, written so that a crash never costs the previous one.

`checkpoints/step-N.safetensors` holds weights and optimizer state, `checkpoints/step-N.json` the loop's
counters and the SHA-256 of the tensors. The JSON appears last, by rename: a checkpoint without it does not
exist. Older checkpoints are removed only after that.
"""

import hashlib
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rhapsode.errors import StateError
from rhapsode.runfolder import RunFolder, hash_file, read_json, write_atomic, write_json

_NAME = re.compile(r"step-(\d+)\.json")


@dataclass
class Progress:
    """Where a training stands. `best_nats` and `best_step` are of the best evaluation so far."""

    step: int = 0
    elapsed_s: float = 0.0
    best_nats: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    metrics_bytes: int = 0


def save_checkpoint(folder: RunFolder, tensors: dict[str, Tensor], progress: Progress) -> Path:
    """Write a checkpoint and then remove the older ones. Returns the path of its JSON.

    Raises:
        StateError: if the disk is full or read-only; older checkpoints are untouched.
    """
    stem = folder.checkpoints / f"step-{progress.step:08d}"
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    write_atomic(stem.with_suffix(".safetensors"), data)
    write_json(stem.with_suffix(".json"), {"sha256": hashlib.sha256(data).hexdigest(), **asdict(progress)})
    for old in folder.checkpoints.iterdir():
        # the numbers are padded, so names sort by step; temporary files of a crash go as well.
        if old.stem != stem.name:
            old.unlink(missing_ok=True)
    return stem.with_suffix(".json")


def latest_checkpoint(folder: RunFolder) -> Path | None:
    """Return the JSON of the newest checkpoint, or `None`."""
    if not folder.checkpoints.is_dir():
        return None
    return max((p for p in folder.checkpoints.iterdir() if _NAME.fullmatch(p.name)), default=None)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a checkpoint by the path of its JSON.

    Raises:
        StateError: if it is damaged, incomplete, or not a checkpoint.
    """
    header = read_json(path)
    tensors_path = path.with_suffix(".safetensors")
    expected = {field.name for field in fields(Progress)} | {"sha256"}
    if set(header) != expected:
        raise StateError(f"{path} must be a checkpoint of this program; its entries are {sorted(header)}.")
    for name in expected - {"sha256"}:
        optional = name == "best_nats" and header[name] is None
        if not optional and (isinstance(header[name], bool) or not isinstance(header[name], int | float)):
            raise StateError(f"{path} must be a checkpoint of this program; its {name} is {header[name]!r}.")
    if not tensors_path.is_file():
        raise StateError(f"{tensors_path} must be there beside {path.name}; it is missing. Train again.")
    if hash_file(tensors_path) != header.pop("sha256"):
        raise StateError(
            f"{tensors_path} must match the checksum in {path.name}; it was damaged or changed. "
            "Restore it, or train again with --overwrite."
        )
    return load(tensors_path.read_bytes()), Progress(**header)


def save_weights(path: Path, model: nn.Module) -> str:
    """Write a model's parameters and lasting buffers, each once and without metadata, atomically. Returns the SHA-256.

    safetensors with several metadata keys is not byte-stable, so the file has none: equal weights are
    equal bytes.
    """
    data = save({name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()})
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path, model: nn.Module, sha256: str | None) -> None:
    """Fill a model's parameters from `save_weights`.

    Args:
        sha256: what the file must hash to; `None` where the run died before it was recorded.

    Raises:
        StateError: if the file is missing, damaged, or of another model.
    """
    if not path.is_file():
        raise StateError(f"{path} must hold the weights of the run; it is missing. Resume or train again.")
    if sha256 is not None and hash_file(path) != sha256:
        raise StateError(f"{path} must match the checksum in run.json; it was damaged or changed. Train again.")
    fill_parameters(model, _parse(path), str(path))


def fill_parameters(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into the parameters of the same names.

    Raises:
        StateError: if names or shapes are not those of the model, or a buffer, such as the seed of keys, has another
            value.
    """
    parameters = model.state_dict()
    learnt = {name for name, _ in model.named_parameters()}
    if set(parameters) != set(tensors):
        odd = sorted(set(parameters) ^ set(tensors))[0]
        raise StateError(f"{where} must hold the weights of this recipe; '{odd}' is in only one of them.")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise StateError(
                f"{where} must hold the weights of this recipe; '{name}' is {tuple(tensors[name].shape)} "
                f"there and {tuple(parameter.shape)} here."
            )
        if name not in learnt and not torch.equal(parameter.cpu(), tensors[name].cpu()):
            raise StateError(
                f"{where} must hold the weights of this recipe; '{name}' is {tensors[name].tolist()} there and "
                f"{parameter.tolist()} here. Restore the recipe they were trained with."
            )
        parameter.data.copy_(tensors[name])


def _parse(path: Path) -> dict[str, Any]:
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise StateError(f"{path} must be a safetensors file; got: {error}.") from None

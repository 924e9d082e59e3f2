"""A field on disk: what is learnt in float16, and beside it what it reads and what it starts from.

RUN/model.safetensors             parameters, float16; the file names the dtype of each
RUN/field/shortlist.safetensors   classes of ids, and the unigram
RUN/field/ngrams.safetensors      counts of the base, if it counts
RUN/field/projection.json         seeds of the projection; projection.safetensors, the whitening, if there is one
RUN/field/streams.safetensors     how long a teacher's streams are, in probe mode
RUN/field/statistics.safetensors  what each unit did while the field learnt
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rhapsode.config import build_config, read_toml
from rhapsode.errors import StateError
from rhapsode.memory.ngram_base import load_ngram_base, save_ngram_base
from rhapsode.memory.token_files import read_arrays, write_arrays
from rhapsode.models.field.base import BaseDistribution
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection
from rhapsode.models.field.model import FieldModel
from rhapsode.models.field.shortlist import Shortlist
from rhapsode.nn.field import UnitStatistics
from rhapsode.runfolder import RunFolder, hash_file, write_atomic
from rhapsode.training.checkpoint import fill_parameters
from rhapsode.training.distill.config import DistillRecipe
from rhapsode.training.distill.source import TeacherSource
from rhapsode.training.distill.streams import StreamSlice
from rhapsode.training.distill.teacher import load_teacher
from rhapsode.training.hardware import resolve_device

_SHORTLIST = ("class_of", "num_classes", "log_unigram")


@torch.no_grad()
def round_parameters(model: FieldModel) -> None:
    """Round every parameter to what is stored, so that figures are those of the model that is loaded.

    Raises:
        StateError: if a number does not fit.
    """
    for name, parameter in model.named_parameters():
        rounded = parameter.half()
        if not bool(rounded.isfinite().all()):
            raise StateError(f"{name} must fit float16; got {float(parameter.abs().max()):g}. Lower the learning rate.")
        parameter.copy_(rounded)


def save_field(folder: RunFolder, model: FieldModel, statistics: UnitStatistics) -> str:
    """Write what a field is made of; returns the SHA-256 of the parameters.

    Raises:
        StateError: if a file cannot be written.
    """
    folder.field.mkdir(exist_ok=True)
    write_arrays(
        folder.field / "shortlist.safetensors",
        {
            "class_of": model.shortlist.class_of,
            "num_classes": np.array([model.shortlist.num_classes]),
            "log_unigram": model.shortlist.log_unigram,
        },
    )
    if model.base.ngrams is not None:
        save_ngram_base(folder.field / "ngrams.safetensors", model.base.ngrams)
    model.projection.save(folder.field)
    write_atomic(folder.field / "statistics.safetensors", save(dict(statistics.named_buffers())))
    data = save({name: p.detach().half().contiguous().cpu() for name, p in model.named_parameters()})
    write_atomic(folder.model, data)
    return hashlib.sha256(data).hexdigest()


def load_field(folder: RunFolder, header: dict[str, Any], device: str = "cpu") -> tuple[DistillRecipe, FieldModel]:
    """Load a run that `rhapsode distill` made; a probe loads its teacher as well.

    Raises:
        UserError: if the teacher of a probe is gone.
        StateError: if a file is damaged, or the teacher is another than it was.
    """
    recipe = build_config(DistillRecipe, read_toml(folder.recipe))
    model = FieldModel(
        recipe.model,
        load_shortlist(folder.field / "shortlist.safetensors"),
        _load_base(folder, recipe.model),
        ContextProjection.load(folder.field, recipe.model.mode == "probe"),
        _load_source(header, recipe.model, device),
        recipe.training.seed,
    )
    sha256 = header.get("weights_sha256")
    if not folder.model.is_file():
        raise StateError(f"{folder.model} must hold the weights of the run; it is missing. Distill again.")
    if sha256 is not None and hash_file(folder.model) != sha256:
        raise StateError(f"{folder.model} must match the checksum in run.json; it was damaged. Distill again.")
    fill_parameters(model, _tensors(folder.model), str(folder.model))
    model.to(resolve_device(device)).requires_grad_(False)
    return recipe, model


def load_statistics(folder: RunFolder, num_units: int, decay: float) -> UnitStatistics:
    """Load what each unit did while the field learnt.

    Raises:
        StateError: if the file is missing or damaged.
    """
    statistics = UnitStatistics(num_units, decay)
    found = _tensors(folder.field / "statistics.safetensors")
    for name, buffer in statistics.named_buffers():
        if name not in found or found[name].shape != buffer.shape:
            raise StateError(
                f"{folder.field} must hold statistics of {num_units} units; they are damaged. Distill again."
            )
        buffer.copy_(found[name])
    return statistics


def load_shortlist(path: Path) -> Shortlist:
    """Read a shortlist. Raises StateError if it is missing or damaged."""
    arrays = read_arrays(path, _SHORTLIST)
    return Shortlist(arrays["class_of"], int(arrays["num_classes"][0]), arrays["log_unigram"])


def _load_base(folder: RunFolder, config: FieldModelConfig) -> BaseDistribution:
    log_unigram = load_shortlist(folder.field / "shortlist.safetensors").log_unigram
    counted = config.base == "kneser_ney"
    return BaseDistribution(log_unigram, load_ngram_base(folder.field / "ngrams.safetensors") if counted else None)


def _load_source(header: dict[str, Any], config: FieldModelConfig, device: str) -> TeacherSource | None:
    if config.mode == "replacement":
        return None
    said = header["teacher"]
    teacher = load_teacher(said["path"], device)
    if teacher.fingerprint != said["fingerprint"]:
        raise StateError(f"{said['path']} must be the teacher that this probe reads; it has changed. Distill again.")
    return TeacherSource(teacher, tuple(StreamSlice(**stream) for stream in said["streams"]))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load(path.read_bytes())
    except OSError as error:
        raise StateError(f"{path} must be readable; got: {error.strerror}.") from None
    except SafetensorError as error:
        raise StateError(f"{path} must be a safetensors file; got: {error}. Distill again.") from None
    return found

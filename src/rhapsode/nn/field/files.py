"""A field on disk: one safetensors file that says its settings and every tensor's precision."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rhapsode.config import build_config
from rhapsode.errors import StateError, UserError
from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.field import Field
from rhapsode.nn.field.large import LargeField
from rhapsode.runfolder import write_atomic

_FORMAT = "rhapsode-field-1"
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def save_field(field: Field | LargeField, path: str | Path) -> None:
    """Write a field atomically; a large field's masters are first rounded into its tables.

    The metadata hold the format, the settings, and the dtype of each tensor. A reload predicts bit for bit the same.

    Raises:
        StateError: if the file cannot be written, or a value is NaN or infinite.
    """
    if isinstance(field, LargeField):
        field.flush()
    tensors = {name: value.detach().contiguous().cpu() for name, value in field.state_dict().items()}
    for name, value in tensors.items():
        # both are NaN if a number is; nothing of the table's size is made.
        if not all(math.isfinite(bound) for bound in value.aminmax()):
            raise StateError(f"field.{name} must be finite to be saved; it holds NaN or infinity. Train again.")
    metadata = {
        "format": _FORMAT,
        "kind": type(field).__name__,
        "in_dim": str(field.in_dim),
        "out_dim": str(field.out_dim),
        "config": field.config.model_dump_json(),
        "dtypes": json.dumps({name: _name(value) for name, value in tensors.items()}),
    }
    write_atomic(Path(path), _safetensors(tensors, metadata))


def load_field(path: str | Path, masters: int = 0) -> Field | LargeField:
    """Read a field in the precision that it was saved in.

    Args:
        masters: for a large field that is to be trained further.

    Raises:
        UserError: if there is no such file.
        StateError: if it is not a field, or its tensors are not what its metadata say.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the field must be a file; got {path}, which is none. Save one with save_field.")
    try:
        with safe_open(str(path), "pt") as file:
            metadata: dict[str, Any] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        raise StateError(f"{path} must be a safetensors file, but it is damaged. Save it again.") from None
    if metadata.get("format") != _FORMAT:
        raise StateError(f"{path} must have format {_FORMAT}; got {metadata.get('format')}. Save it with this version.")
    if json.loads(metadata["dtypes"]) != {name: _name(value) for name, value in tensors.items()}:
        raise StateError(f"{path} must hold tensors of the dtypes that it names; some differ. Save it again.")
    config = build_config(FieldConfig, json.loads(metadata["config"]), "field")
    sizes = int(metadata["in_dim"]), int(metadata["out_dim"])
    field: Field | LargeField
    if metadata["kind"] == "LargeField":
        field = LargeField(*sizes, config, masters=masters, draw=False)
    else:
        field = Field(*sizes, config).to(tensors["normals"].dtype)
    field.load_state_dict(tensors)
    return field


def _safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file part by part: the package's own writer holds every table three times."""
    header: dict[str, Any] = {"__metadata__": metadata}
    # the format wants wide numbers first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, value in ordered:
        yield value.reshape(-1).view(torch.uint8).numpy().data


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

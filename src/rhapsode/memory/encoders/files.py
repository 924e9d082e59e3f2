"""An encoder on disk: `encoder.json` says what it is, `encoder.safetensors` holds its arrays. No pickle."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import read_json, write_atomic, write_json

FORMAT_VERSION = 1
HEADER, ARRAYS = "encoder.json", "encoder.safetensors"


class DamagedEncoderError(StateError):
    """The files of an encoder are damaged or do not fit together; nothing but training it anew helps."""


@runtime_checkable
class Described(Protocol):
    """What the header of every encoder says."""

    kind: str
    fingerprint: str
    width: int


def write_header(folder: Path, encoder: Described, settings: Mapping[str, Any]) -> None:
    """Write `encoder.json`. Write it last: a folder without it holds no encoder."""
    _make_folder(folder)
    about = {"format_version": FORMAT_VERSION, "kind": encoder.kind, "width": encoder.width}
    write_json(folder / HEADER, {**about, "fingerprint": encoder.fingerprint, **settings})


def read_header(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Read `encoder.json`.

    Args:
        kind: what it must be; `None` for any.

    Raises:
        UserError: if there is no encoder, or one of another kind.
        StateError: if it is damaged or written by a newer version.
    """
    if not (folder / HEADER).is_file():
        raise UserError(f"the encoder must be a folder with {HEADER}; got {folder}. Train one or name another folder.")
    try:
        header = read_json(folder / HEADER)
    except StateError as error:
        # a file that may not be read is not damaged, and must not be replaced.
        if isinstance(error.__context__, OSError):
            raise
        raise damaged(folder, f"{HEADER} holds no JSON object") from None
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StateError(
            f"{folder / HEADER} has format version {version!r}, and this rhapsode reads up to {FORMAT_VERSION}. "
            "Install a newer rhapsode."
        )
    if kind is not None and header.get("kind") != kind:
        raise UserError(f"the encoder in {folder} must be of kind {kind}; got {header.get('kind')!r}.")
    return header


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays atomically."""
    _make_folder(folder)
    write_atomic(folder / ARRAYS, save_safetensors({name: np.ascontiguousarray(a) for name, a in arrays.items()}))


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays. Raises DamagedEncoderError if it is missing or damaged, StateError if it cannot be read."""
    try:
        arrays: dict[str, np.ndarray] = load_safetensors((folder / ARRAYS).read_bytes())
    except FileNotFoundError:
        raise damaged(folder, f"{ARRAYS} is missing") from None
    except OSError as error:
        raise StateError(f"{folder / ARRAYS} must be readable; got: {error.strerror}.") from None
    except (SafetensorError, ValueError) as error:
        raise damaged(folder, str(error)) from None
    return arrays


def damaged(folder: Path, why: str) -> DamagedEncoderError:
    """Build the error for an encoder whose files do not fit together."""
    return DamagedEncoderError(
        f"{folder} must hold an encoder, but it is damaged ({why}). Restore it, or train the default one anew with: "
        f"rhapsode memory {shlex.quote(str(folder.parent))} rebuild --reencode"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{folder} must be writable; got: {error.strerror}. Choose another folder.") from None

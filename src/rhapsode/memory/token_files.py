"""Arrays on disk: one safetensors file, written atomically."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rhapsode.errors import StateError
from rhapsode.runfolder import write_atomic


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays. Equal arrays give equal bytes.

    Raises:
        StateError: if the file cannot be written.
    """
    from safetensors.numpy import save

    write_atomic(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the arrays called `names`.

    Raises:
        StateError: if the file is missing or damaged, or has other arrays.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, np.ndarray] = load(path.read_bytes())
    except OSError as error:
        raise StateError(f"{path} must be readable; got: {error.strerror}.") from None
    except SafetensorError as error:
        raise StateError(f"{path} must be a safetensors file; got: {error}. Make it anew.") from None
    if set(arrays) != set(names):
        raise StateError(f"{path} must hold {', '.join(names)}; got {', '.join(sorted(arrays)) or 'nothing'}.")
    return arrays

"""A function of the user's own as an encoder."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from rhapsode.errors import UserError
from rhapsode.memory.encoders.files import read_header, write_header
from rhapsode.memory.encoders.rows import unit_rows


class CallableEncoder:
    """Wraps a function from texts to vectors; its rows are checked and brought to unit length.

    The fingerprint follows from the name and the width alone, because code cannot be hashed: give the function a new
    name when it begins to encode differently, or the store cannot know.

    >>> encoder = CallableEncoder(lambda texts: [[len(text), 1.0] for text in texts], "length-1")
    >>> encoder.width, encoder.encode(["", "abc"]).round(2).tolist()[0]
    (2, [0.0, 1.0])
    """

    kind = "callable"

    def __init__(self, function: Callable[[Sequence[str]], Any], name: str) -> None:
        """Ask the function for one vector, to learn its width.

        Args:
            function: gives an (N, M) array, or nested lists, for N texts.
            name: what this way of encoding is called, version included.

        Raises:
            UserError: if the name is empty or the function gives anything but finite rows.
        """
        if not name.strip():
            raise UserError("the encoder's name must not be empty; got ''. Name the function and its version.")
        self._function = function
        self.name = name
        self.width = unit_rows(function(["a"]), 1, None, name).shape[1]
        self.fingerprint = hashlib.sha256(f"callable\n{name}\n{self.width}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        """Return a unit vector for each text; zeros where the function gave zeros.

        Raises:
            UserError: if the function gives another number of rows, another width, or NaN.
        """
        if len(texts) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        return unit_rows(self._function(list(texts)), len(texts), self.width, self.name)

    def save(self, folder: str | Path) -> None:
        """Write name, width and fingerprint; the code itself stays where it is."""
        write_header(Path(folder), self, {"name": self.name})

    @classmethod
    def load(cls, folder: str | Path) -> "CallableEncoder":
        """Fail: code is not kept in a folder.

        Raises:
            UserError: saying which function has to be given.
        """
        name = read_header(Path(folder), cls.kind).get("name")
        raise UserError(
            f"the encoder in {folder} must be given as a function; it is the callable '{name}'. "
            "Open the memory from Python with that CallableEncoder."
        )

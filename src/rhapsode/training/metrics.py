"""metrics.jsonl: one JSON object a line, cut back to the checkpoint that a resume goes on from."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from rhapsode.errors import StateError
from rhapsode.runfolder import RunFolder, write_atomic


class MetricsLog:
    """The lines that a training writes while it runs, of one run."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.metrics

    def clear(self) -> None:
        """Begin an empty log. Raises StateError as `write_atomic` does."""
        write_atomic(self._path, b"")

    def append(self, *rows: Mapping[str, Any]) -> int:
        """Write rows at the end. Returns the bytes of the log after them.

        Raises:
            StateError: if the file cannot be written or the disk is full.
        """
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
                return file.tell()
        except OSError as error:
            raise StateError(
                f"{self._path} must be writable; got: {error.strerror}. Free space and train on with --resume, if the "
                "command has it."
            ) from None

    def sync(self) -> None:
        """Force the lines to disk: a checkpoint counts on those before it."""
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())

    def cut(self, num_bytes: int) -> None:
        """Leave the first `num_bytes`: lines after a checkpoint will be written again.

        Raises:
            StateError: if there are fewer.
        """
        if not self._path.is_file() or self._path.stat().st_size < num_bytes:
            raise StateError(
                f"{self._path} must hold every line up to the last checkpoint; it was cut short. "
                "Restore it, or train again with --overwrite."
            )
        with open(self._path, "ab") as file:
            file.truncate(num_bytes)

    def rows(self) -> list[dict[str, Any]]:
        """Read the lines back; a last line that a crash cut short is left out, a missing log has none."""
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows

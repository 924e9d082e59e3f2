"""A run on disk: its names, locks and atomic writes. Nothing else in the project knows them.

RUN/recipe.toml         the resolved recipe
RUN/tokenizer.json      the tokenizer
RUN/model.safetensors   the best validation weights
RUN/run.json            seed, versions, threads, dtype, compile choice, data hash, results
RUN/metrics.jsonl       one JSON object a line
RUN/loss.png            the loss curve
RUN/checkpoints/        what a resume needs
RUN/data/               validation and calibration text, encoded
RUN/encoder/  memory/   what later steps add
RUN/field/    capture/  what a distilled field is made of, and what was read of its teacher

An embedding that is trained by itself has request.json in place of run.json, from its first step on.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rhapsode.errors import StateError, UserError

FORMAT_VERSION = 1


def write_atomic(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, even after a crash.

    The bytes go to a neighbour file, are forced to disk, and are renamed into place; then the folder
    entry itself is forced to disk.

    Args:
        data: all of it, or its parts one after another, so that a large file is never in memory twice.

    Raises:
        StateError: if the folder cannot be written or the disk is full; the old content is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        # what kept the file from being written may keep it from being removed, and would hide the reason.
        with suppress(OSError):
            temporary.unlink()
        raise StateError(
            f"{path} must be writable; got: {error.strerror}. Free space or choose another folder."
        ) from None


def sync_folder(path: Path) -> None:
    """Force the names in a folder to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object atomically. Raises StateError as `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        StateError: if the file is missing, damaged, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise StateError(f"{path} must be readable; got: {error.strerror}.") from None
    except ValueError:
        raise StateError(f"{path} must hold JSON, but it is damaged. Restore it or train again.") from None
    if not isinstance(value, dict):
        raise StateError(f"{path} must hold one JSON object; got {type(value).__name__}.")
    return value


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class RunFolder:
    """The folder of one run. Makes paths; reads and writes nothing by itself."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.model = self.path / "model.safetensors"
        self.run = self.path / "run.json"
        self.embedding_request = self.path / "request.json"
        self.metrics = self.path / "metrics.jsonl"
        self.loss_picture = self.path / "loss.png"
        self.checkpoints = self.path / "checkpoints"
        self.data = self.path / "data"
        self.encoder = self.path / "encoder"
        self.gate = self.path / "gate.json"
        self.memory = self.path / "memory"
        self.field = self.path / "field"
        self.capture = self.path / "capture"

    def exists(self) -> bool:
        """Return whether a run is here. One that died before its first step, with no run.json yet, is none."""
        return self.run.exists()

    def claim(self, *, overwrite: bool = False, for_embedding: bool = False) -> None:
        """Make the folder, so that it can be locked; nothing in it is touched.

        Raises:
            UserError: if a run is here already and `overwrite` is false, a run is to be where an embedding is, or the
                folder cannot be made.
        """
        if self.exists() and not overwrite:
            raise UserError(
                f"--out must name a folder without a run; got {self.path}, which has one. "
                "Replace it with --overwrite, or go on with a training that was stopped with --resume."
            )
        if self.embedding_request.exists() and not for_embedding:
            raise UserError(
                f"--out must not name the folder of an embedding; got {self.path}, whose tokenizer would be replaced. "
                "Choose another --out."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder ready for a new run; with `overwrite`, remove what an earlier run wrote.

        Only files that a run writes are removed, and only where there is a run: anything else stays, and so does
        what the earlier run was taught, and what it captured of a teacher, which knows what it is of.

        Raises:
            UserError: as `claim` does.
        """
        self.claim(overwrite=overwrite)
        try:
            if self.exists():
                self._remove()
            self.checkpoints.mkdir(exist_ok=True)
            self.data.mkdir(exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None

    def _not_writable(self, error: OSError) -> UserError:
        return UserError(f"--out must name a writable folder; got {self.path}: {error.strerror}.")

    def _remove(self) -> None:
        for folder in (self.checkpoints, self.data, self.encoder, self.field):
            if folder.exists():
                shutil.rmtree(folder)
        # run.json last: a removal that is cut short leaves a run, and can be asked for again.
        for file in (self.recipe, self.tokenizer, self.model, self.gate, self.metrics, self.loss_picture, self.run):
            file.unlink(missing_ok=True)

    def open(self) -> "RunFolder":
        """Return self if this is a run that this version can read.

        Raises:
            UserError: if there is no run here.
            StateError: if the run was written by a newer version.
        """
        if not self.path.is_dir() or not self.run.exists():
            raise UserError(
                f"RUN must name the folder of a run; got {self.path}, which has no {self.run.name}. "
                f"Make one with: rhapsode train SOURCE --out {self.path}"
            )
        version = read_json(self.run).get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise StateError(
                f"{self.run} has format version {version!r}, and this rhapsode reads up to {FORMAT_VERSION}. "
                "Install a newer rhapsode."
            )
        return self

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock, so that two trainings never write one folder.

        Raises:
            StateError: if another process holds it, or the folder cannot hold a lock.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StateError(
                f"{self.path} is in use by another training. Wait for it to end or choose another --out."
            ) from None
        except OSError as error:
            raise StateError(f"{self.path} must be writable; got: {error.strerror}. Choose another --out.") from None
        try:
            yield
        finally:
            lock.release()

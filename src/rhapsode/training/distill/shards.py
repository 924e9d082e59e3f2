"""What was captured of a teacher, on disk: one vector a position, in float16, in shards that are checked.

FOLDER/capture.json            the specification: teacher, text, streams and their offsets; written first
FOLDER/shard-00000.safetensors ids, features, the teacher's likeliest ids and their log-probabilities
FOLDER/shard-00000.json        its SHA-256, written last: a shard without it was cut short and is captured again

A position is stored once. The raw vector of a window is put together from those of its positions when it is needed,
so that windows that overlap cost nothing twice.

Shape letters: N positions, F numbers of a position, K ids kept of the teacher's distribution, W positions of a window.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64, Integer
from safetensors import SafetensorError
from safetensors.numpy import save

from rhapsode.errors import StateError
from rhapsode.runfolder import hash_file, read_json, write_atomic, write_json
from rhapsode.training.distill.streams import StreamSlice

FORMAT_VERSION = 1
SPEC = "capture.json"
# what fits float16 with room for rounding.
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class CaptureSpec:
    """All that decides what is captured: equal specifications give equal shards."""

    teacher: str
    """Fingerprint."""
    text: str
    """SHA-256 over the ids that are read."""
    num_positions: int
    streams: tuple[StreamSlice, ...]
    top_k: int
    vocab_size: int
    context: int
    """Tokens of the windows in which the teacher reads."""
    shard_positions: int
    dtype: str = "float16"

    @property
    def width(self) -> int:
        """Numbers in the vector of a position."""
        return sum(stream.width for stream in self.streams)

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-self.num_positions // self.shard_positions)

    @property
    def bytes_per_position(self) -> int:
        """Of features, ids, targets, likeliest ids, their log-probabilities, tail, and the nats of what came."""
        return 2 * self.width + 4 + 4 + self.top_k * (4 + 2) + 2 + 4

    @property
    def size_bytes(self) -> int:
        """Of all shards together, but for some kilobytes of names."""
        return self.num_positions * self.bytes_per_position

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first position of a shard and the one after its last."""
        begin = shard * self.shard_positions
        return begin, min(self.num_positions, begin + self.shard_positions)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"format_version": FORMAT_VERSION, **json.loads(json.dumps(asdict(self)))}


@dataclass(frozen=True)
class Targets:
    """What the teacher said of the positions that were asked for.

    Attributes:
        ids: int64 (N,), at the position.
        next_ids: int64 (N,), what came after it.
        top_ids: int64 (N, K), the teacher's likeliest.
        top_log_probs: float32 (N, K).
        tail_log_mass: float32 (N,), of all others together; at least -30.
        nats: float32 (N,), the teacher's own loss.
    """

    ids: Int64[np.ndarray, " N"]
    next_ids: Int64[np.ndarray, " N"]
    top_ids: Int64[np.ndarray, "N K"]
    top_log_probs: Float32[np.ndarray, "N K"]
    tail_log_mass: Float32[np.ndarray, " N"]
    nats: Float32[np.ndarray, " N"]


_TARGETS = ("ids", "next_ids", "top_ids", "top_log_probs", "tail_log_mass", "nats")


def to_float16(
    features: Float32[np.ndarray, "N F"], streams: tuple[StreamSlice, ...]
) -> tuple[Float16[np.ndarray, "N F"], dict[str, float]]:
    """Store features in float16; a stream with numbers that do not fit is divided by a power of two.

    Returns:
        the stored numbers, and the divisors of the streams that needed one. Other numbers stay as exact as they were.

    Raises:
        StateError: if a number is not finite.
    """
    scales: dict[str, float] = {}
    out = np.empty(features.shape, dtype=np.float16)
    for stream in streams:
        part = features[:, stream.offset : stream.offset + stream.width]
        largest = float(np.abs(part).max(initial=0.0))
        if not np.isfinite(largest):
            raise StateError(
                f"the teacher's {stream.name} must be finite; got NaN or infinity. It is damaged or needs another "
                "precision: leave the stream out with --capture."
            )
        scale = 2.0 ** max(0, int(np.ceil(np.log2(largest / FLOAT16_MAX)))) if largest > FLOAT16_MAX else 1.0
        if scale > 1.0:
            scales[stream.name] = scale
        out[:, stream.offset : stream.offset + stream.width] = part / np.float32(scale)
    return out, scales


def shard_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    """Return the paths of a shard's tensors and of its JSON."""
    return folder / f"shard-{shard:05d}.safetensors", folder / f"shard-{shard:05d}.json"


def write_shard(
    folder: Path, shard: int, teacher: str, arrays: dict[str, np.ndarray], scales: dict[str, float]
) -> None:
    """Write a shard, its checksum last.

    Raises:
        StateError: if the disk is full; what was there before is intact.
    """
    path, header = shard_paths(folder, shard)
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_atomic(path, data)
    write_json(header, {"sha256": hashlib.sha256(data).hexdigest(), "teacher": teacher, "scales": scales})


def shard_is_done(folder: Path, shard: int, spec: CaptureSpec) -> bool:
    """Return whether a shard is there and whole; one that was cut short is not there.

    Raises:
        StateError: if it is damaged, or of another teacher.
    """
    path, header = shard_paths(folder, shard)
    if not header.exists():
        return False
    read = read_json(header)
    if read.get("teacher") != spec.teacher:
        raise StateError(
            f"{path} must be of the teacher of this capture; it was made of another. Remove {folder} and capture again."
        )
    if not path.is_file() or hash_file(path) != read.get("sha256"):
        raise StateError(
            f"{path} must match its checksum in {header.name}; it was damaged or changed. Remove {header.name}, and "
            "the next capture makes it again."
        )
    return True


def write_spec(folder: Path, spec: CaptureSpec) -> None:
    """Write the specification, or compare it with the one that is there.

    Raises:
        StateError: if the folder holds another capture, naming the first difference.
    """
    path = folder / SPEC
    wanted = spec.as_json()
    if path.exists():
        found = read_json(path)
        different = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if different:
            what = {"teacher": "another teacher", "text": "another text"}.get(different[0], f"another {different[0]}")
            raise StateError(
                f"{path} must be of this teacher, text and settings; it is of {what}. Remove {folder}, or choose "
                "another --cache."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{folder} must be writable; got: {error.strerror}. Choose another --cache.") from None
    write_json(path, wanted)


def read_spec(folder: Path) -> CaptureSpec:
    """Read a specification.

    Raises:
        StateError: if it is missing or damaged, or of a newer version.
    """
    path = folder / SPEC
    values = read_json(path)
    if values.pop("format_version", None) != FORMAT_VERSION:
        raise StateError(f"{path} has another format version than {FORMAT_VERSION}. Capture again.")
    try:
        streams = tuple(StreamSlice(**stream) for stream in values.pop("streams"))
        return CaptureSpec(streams=streams, **values)
    except (KeyError, TypeError):
        raise StateError(f"{path} must describe a capture, but it is damaged. Capture again.") from None


class Capture:
    """A complete capture, open for reading. Features stay on disk until they are asked for."""

    def __init__(self, folder: Path, teacher: str | None = None) -> None:
        """Open a folder and check every shard: about 1 GB a second.

        Args:
            teacher: fingerprint that it must be of; None takes any.

        Raises:
            StateError: if a shard is missing, damaged or of another teacher.
        """
        self.folder = folder
        self.spec = read_spec(folder)
        if teacher is not None and teacher != self.spec.teacher:
            raise StateError(f"{folder} must be captured from this teacher; it is of another. Capture again.")
        self._features: list[np.ndarray] = []
        self._scales: list[Float32[np.ndarray, " F"]] = []
        parts: list[dict[str, np.ndarray]] = []
        for shard in range(self.spec.num_shards):
            if not shard_is_done(folder, shard, self.spec):
                raise StateError(f"{folder} must hold a whole capture; shard {shard} is missing. Capture again.")
            parts.append(self._open_shard(shard))
        # in the types they are stored in; a row is widened when it is asked for.
        self._small = {name: np.concatenate([part[name] for part in parts]) for name in _TARGETS}

    def __len__(self) -> int:
        return self.spec.num_positions

    @property
    def ids(self) -> Int64[np.ndarray, " N"]:
        """The ids that were read; the last of them has no position of its own."""
        small = self._small
        return np.append(small["ids"], small["next_ids"][-1:]).astype(np.int64)

    @property
    def nats(self) -> Float32[np.ndarray, " N"]:
        """The teacher's loss at every position."""
        return self._small["nats"]

    def targets(self, positions: Integer[np.ndarray, " N"]) -> Targets:
        """Return what the teacher said after the given positions."""
        rows = {name: part[positions] for name, part in self._small.items()}
        wide = {name: np.int64 if name in ("ids", "next_ids", "top_ids") else np.float32 for name in rows}
        return Targets(**{name: part.astype(wide[name]) for name, part in rows.items()})

    def features(self, positions: Integer[np.ndarray, " N"]) -> Float32[np.ndarray, "N F"]:
        """Return the vectors of the given positions; zeros for positions before the text."""
        out = np.zeros((len(positions), self.spec.width), dtype=np.float32)
        shards = np.asarray(positions) // self.spec.shard_positions
        for shard in np.unique(shards[np.asarray(positions) >= 0]).tolist():
            rows = np.flatnonzero(shards == shard)
            found = self._features[shard][np.asarray(positions)[rows] - shard * self.spec.shard_positions]
            out[rows] = found.astype(np.float32) * self._scales[shard]
        return out

    def windows(self, positions: Integer[np.ndarray, " N"], window: int) -> Float32[np.ndarray, "N W_times_F"]:
        """Return the raw vector of the window that ends at each position: its positions' vectors, oldest first."""
        wanted = np.asarray(positions)[:, None] + np.arange(1 - window, 1)
        unique, inverse = np.unique(wanted, return_inverse=True)
        return self.features(unique)[inverse.reshape(-1)].reshape(len(wanted), -1)

    def _open_shard(self, shard: int) -> dict[str, np.ndarray]:
        path, header = shard_paths(self.folder, shard)
        scales = np.ones(self.spec.width, dtype=np.float32)
        given = read_json(header).get("scales", {})
        for stream in self.spec.streams:
            scales[stream.offset : stream.offset + stream.width] = given.get(stream.name, 1.0)
        self._scales.append(scales)
        begin, end = self.spec.bounds(shard)
        self._features.append(_map_tensor(path, "features", (end - begin, self.spec.width)))
        return _read_small(path)


def _map_tensor(path: Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Map a float16 tensor of a safetensors file, so that reading a row does not read the file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
    if entry["dtype"] != "F16" or tuple(entry["shape"]) != shape:
        raise StateError(f"{path} must hold float16 {name} of {shape}; got {entry['dtype']} of {entry['shape']}.")
    if shape[1] == 0:
        return np.empty(shape, dtype=np.float16)
    return np.asarray(np.memmap(path, dtype="<f2", mode="r", offset=8 + size + entry["data_offsets"][0], shape=shape))


def _read_small(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in _TARGETS}
    except SafetensorError as error:
        raise StateError(f"{path} must be a shard of a capture; got: {error}. Capture again.") from None

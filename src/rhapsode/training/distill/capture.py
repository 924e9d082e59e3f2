"""Read a teacher once over a text and keep what it does at every position, in shards; goes on where it was stopped.

The teacher reads windows of its own context that move on by half of it, and a position is kept from the first window in
which it stands in the second half: it has seen at least half a context, as far as there is so much text. A window
depends on nothing but the text, so shards can be made in any order and come out alike.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from rhapsode.errors import StateError, UserError
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.distill.shards import (
    Capture,
    CaptureSpec,
    shard_is_done,
    to_float16,
    write_shard,
    write_spec,
)
from rhapsode.training.distill.streams import METADATA_WIDTH, StreamSlice, lay_out
from rhapsode.training.distill.teacher import Reading, Teacher

# a shard is what a killed capture loses at most: some seconds of work.
SHARD_POSITIONS = 8192
_BATCH_TOKENS = 4096
# room that must stay free beside the shards.
_SPARE_BYTES = 100_000_000
_LOWEST_TAIL = -30.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class CapturePlan:
    """What will be captured, where, and what it takes."""

    folder: Path
    spec: CaptureSpec
    done_shards: int

    @property
    def size_bytes(self) -> int:
        """Disk that is still needed."""
        left = self.spec.num_positions - min(self.spec.num_positions, self.done_shards * self.spec.shard_positions)
        return left * self.spec.bytes_per_position

    def describe(self) -> str:
        """Return one sentence with the disk it takes."""
        streams = ", ".join(f"{s.name} at {s.offset} ({s.width})" for s in self.spec.streams) or "no streams"
        already = f", {self.done_shards} of {self.spec.num_shards} shards are there" if self.done_shards else ""
        return (
            f"capture of {self.spec.num_positions:,} positions takes {self.spec.size_bytes / 1e6:,.1f} MB in "
            f"{self.folder} ({self.spec.width} numbers a position: {streams}){already}"
        )


def plan_capture(
    teacher: Teacher,
    tokens: TokenArray,
    folder: Path,
    *,
    streams: tuple[str, ...] | None,
    top_k: int,
    max_positions: int | None = None,
    shard_positions: int = SHARD_POSITIONS,
) -> CapturePlan:
    """Decide what to capture, count the disk it takes, and look for what is there already. Writes nothing.

    Args:
        streams: names; None takes all that the teacher has; none at all keeps its distribution only.
        top_k: ids of the distribution that are kept.
        max_positions: from the beginning of the text; None takes all.

    Raises:
        UserError: if a stream is unknown, the text is too short or `top_k` is out of range.
        StateError: if the folder holds another capture, a shard is damaged, or the disk has too little room.
    """
    vocab_size = teacher.tokenizer.vocab_size
    if not 1 <= top_k <= vocab_size:
        raise UserError(
            f"training.top_k must lie between 1 and the teacher's vocabulary {vocab_size}; got {top_k}. 32 is usual."
        )
    num_positions = len(tokens) - 1 if max_positions is None else min(len(tokens) - 1, max_positions)
    if num_positions < 1:
        raise UserError(f"--data must hold at least 2 tokens to be captured; got {len(tokens)}. Give more text.")
    stride = max(1, teacher.context // 2)
    ids = np.ascontiguousarray(tokens.ids[: num_positions + 1]).astype("<i8")
    spec = CaptureSpec(
        teacher=teacher.fingerprint,
        text=hashlib.sha256(ids.tobytes()).hexdigest(),
        num_positions=num_positions,
        streams=lay_out(teacher.widths, streams),
        top_k=top_k,
        vocab_size=vocab_size,
        context=teacher.context,
        shard_positions=max(stride, shard_positions // stride * stride),
    )
    done = 0
    if (folder / "capture.json").exists():
        write_spec(folder, spec)
        done = sum(shard_is_done(folder, shard, spec) for shard in range(spec.num_shards))
    plan = CapturePlan(folder, spec, done)
    check_room(plan)
    return plan


def check_room(plan: CapturePlan) -> None:
    """Refuse a capture that the disk has no room for.

    Raises:
        StateError: saying how much is needed and how much is free.
    """
    place = plan.folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if plan.size_bytes + _SPARE_BYTES > free:
        raise StateError(
            f"{plan.folder} must have room for {(plan.size_bytes + _SPARE_BYTES) / 1e6:,.0f} MB; got "
            f"{free / 1e6:,.0f} MB free. Capture fewer streams, set training.max_positions, or choose another --cache."
        )


def run_capture(teacher: Teacher, tokens: TokenArray, plan: CapturePlan, say: Say | None = None) -> Capture:
    """Capture what is not there yet, and open the whole.

    Args:
        say: is told of overflow and of progress.

    Raises:
        StateError: if the disk fills, the teacher gives numbers that are not finite, or a shard is damaged. What is
            whole stays, and the next call goes on from there.
    """
    say = say or (lambda sentence: None)
    write_spec(plan.folder, plan.spec)
    made, overflowed = 0, False
    for shard in range(plan.spec.num_shards):
        if shard_is_done(plan.folder, shard, plan.spec):
            continue
        arrays = read_positions(teacher, tokens, plan.spec, *plan.spec.bounds(shard))
        stored, scales = to_float16(arrays.pop("features"), plan.spec.streams)
        if scales and not overflowed:
            overflowed = True
            say(f"numbers past float16 in {', '.join(scales)}: stored over {max(scales.values()):g}, read times it")
        write_shard(plan.folder, shard, plan.spec.teacher, {**arrays, "features": stored}, scales)
        made += 1
        if made % 16 == 0:
            say(f"captured {plan.spec.bounds(shard)[1]:,} of {plan.spec.num_positions:,} positions")
    return Capture(plan.folder, plan.spec.teacher)


def read_positions(
    teacher: Teacher, tokens: TokenArray, spec: CaptureSpec, begin: int, end: int
) -> dict[str, np.ndarray]:
    """Read the teacher over positions `begin` to before `end`; `begin` is a multiple of half a context.

    Returns:
        `features` float32 (N, F), `ids` and `next_ids` int32 (N,), `top_ids` int32 (N, K), `top_log_probs` float16
        (N, K), `tail_log_mass` float16 (N,), `nats` float32 (N,).
    """
    length = spec.context
    stride = max(1, length // 2)
    ids = np.asarray(tokens.ids[: end + 1]).astype(np.int64)
    parts: list[dict[str, np.ndarray]] = []
    stops = [min(end, stop) for stop in range(begin + stride, end + stride, stride)]
    batch: list[tuple[int, int, int]] = []
    for stop, first in zip(stops, [begin, *stops[:-1]], strict=True):
        window = (max(0, stop - length), first, stop)
        # windows of one shape are read together.
        if batch and (_shape(batch[0]) != _shape(window) or len(batch) * length >= _BATCH_TOKENS):
            parts.append(_read_windows(teacher, ids, spec, batch))
            batch = []
        batch.append(window)
    parts.append(_read_windows(teacher, ids, spec, batch))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    features = arrays["features"]
    for stream in spec.streams:
        if stream.name == "metadata":
            starts = np.asarray(tokens.doc_starts)
            rows = metadata(ids, starts, teacher.tokenizer, begin, end)
            features[:, stream.offset : stream.offset + stream.width] = rows
    return {**arrays, "ids": ids[begin:end].astype(np.int32), "next_ids": ids[begin + 1 : end + 1].astype(np.int32)}


def metadata(
    ids: Integer[np.ndarray, " N"], doc_starts: Integer[np.ndarray, " D"], tokenizer: Tokenizer, begin: int, end: int
) -> np.ndarray:
    """Return what is known of positions beside the text: float32 (N, 4).

    Bytes of the token over 8, log(1 + positions since the document began) over 8, whether it begins a document, and
    whether it ends one.
    """
    positions = np.arange(begin, end)
    before = np.searchsorted(doc_starts, positions, side="right") - 1
    since = positions - np.where(before >= 0, doc_starts[np.maximum(before, 0)] if len(doc_starts) else 0, 0)
    here = ids[begin:end]
    columns = [
        tokenizer.num_bytes[here] / 8,
        np.log1p(since) / 8,
        here == tokenizer.bos_id,
        here == tokenizer.eos_id,
    ]
    assert len(columns) == METADATA_WIDTH
    return np.stack(columns, axis=1).astype(np.float32)


def _shape(window: tuple[int, int, int]) -> tuple[int, int]:
    start, first, stop = window
    return stop - start, stop - first


def _read_windows(
    teacher: Teacher, ids: np.ndarray, spec: CaptureSpec, windows: list[tuple[int, int, int]]
) -> dict[str, np.ndarray]:
    keep = windows[0][2] - windows[0][1]
    inputs = torch.from_numpy(np.stack([ids[start:stop] for start, _, stop in windows]))
    wanted = torch.from_numpy(np.stack([ids[first + 1 : stop + 1] for _, first, stop in windows]))
    reading = teacher.read(inputs)
    return {
        "features": _features(reading, spec.streams, keep),
        **_distribution(reading.log_probs[:, -keep:].flatten(0, 1).cpu(), wanted.flatten(), spec.top_k),
    }


def _features(reading: Reading, streams: tuple[StreamSlice, ...], keep: int) -> np.ndarray:
    rows = reading.log_probs.shape[0] * keep
    features = np.zeros((rows, sum(stream.width for stream in streams)), dtype=np.float32)
    for stream in streams:
        if stream.name in reading.streams:
            part = reading.streams[stream.name][:, -keep:].flatten(0, 1).cpu().numpy()
            features[:, stream.offset : stream.offset + stream.width] = part
    return features


def _distribution(log_probs: Float[Tensor, "N C"], wanted: Integer[Tensor, " N"], top_k: int) -> dict[str, np.ndarray]:
    """Return the likeliest ids, and the mass of all others, in log space."""
    if not bool(log_probs.isfinite().all()):
        raise StateError("the teacher's logits must be finite; got NaN or infinity. It is damaged: choose another.")
    top, top_ids = log_probs.topk(top_k, dim=-1)
    # 1 - sum loses everything where the tail is small: what is left is summed itself.
    rest = log_probs.scatter(1, top_ids, -torch.inf)
    tail = rest.logsumexp(dim=-1).clamp_min(_LOWEST_TAIL)
    nats = -log_probs.gather(1, wanted[:, None])[:, 0]
    return {
        "top_ids": top_ids.numpy().astype(np.int32),
        "top_log_probs": top.clamp_min(-60_000).numpy().astype(np.float16),
        "tail_log_mass": tail.numpy().astype(np.float16),
        "nats": nats.numpy().astype(np.float32),
    }

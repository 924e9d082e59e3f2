"""A teacher read at the positions that a probe asks for: while text is generated or scored."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.models.field.base import BEFORE
from rhapsode.training.distill.capture import metadata
from rhapsode.training.distill.shards import to_float16
from rhapsode.training.distill.streams import StreamSlice
from rhapsode.training.distill.teacher import Teacher


class TeacherSource:
    """See `ContextSource`. A position is read from at least half a context before it, as far as there is so much.

    Departs from a capture in one of the `metadata`: where a document began before the context, it is taken to have
    begun with it.
    """

    def __init__(self, teacher: Teacher, streams: tuple[StreamSlice, ...]) -> None:
        self._teacher = teacher
        self._streams = streams
        self.context = teacher.context
        self.width = sum(stream.width for stream in streams)

    def windows(self, past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"], window: int) -> Float[Tensor, "N F"]:
        """Return the raw vectors (B T, window x width) of the windows that end at each of `ids`."""
        rows = [
            self._row(before[before != BEFORE], new, window) for before, new in zip(past.cpu(), ids.cpu(), strict=True)
        ]
        return torch.cat(rows)

    def _row(self, past: Tensor, ids: Tensor, window: int) -> Tensor:
        sequence = torch.cat([past, ids])
        # before the text there is nothing: zeros.
        features = torch.zeros(len(ids) + window - 1, self.width)
        end, filled = len(sequence), len(features)
        while filled > 0 and end > 0:
            start = max(0, end - self.context)
            # what stands in the first half of a window is read from an earlier one, except at the beginning.
            keep = end - start if start == 0 else max(1, self.context // 2)
            keep = min(keep, filled)
            features[filled - keep : filled] = self._read(sequence[start:end], keep)
            end, filled = end - keep, filled - keep
        return features.unfold(0, window, 1).transpose(1, 2).reshape(len(ids), -1)

    def _read(self, ids: Tensor, keep: int) -> Tensor:
        reading = self._teacher.read(ids[None])
        out = torch.zeros(keep, self.width)
        for stream in self._streams:
            place = slice(stream.offset, stream.offset + stream.width)
            if stream.name in reading.streams:
                out[:, place] = reading.streams[stream.name][0, -keep:].cpu()
            elif stream.name == "metadata":
                numbers = ids.numpy()
                starts = np.flatnonzero(numbers == self._teacher.tokenizer.bos_id)
                known = np.unique(np.concatenate([[0], starts]))
                rows = metadata(numbers, known, self._teacher.tokenizer, len(numbers) - keep, len(numbers))
                out[:, place] = torch.from_numpy(rows)
        return torch.from_numpy(self._as_stored(out.numpy()))

    def _as_stored(self, features: np.ndarray) -> np.ndarray:
        """Round as a capture does, a stream past float16 over its power of two."""
        stored, scales = to_float16(features, self._streams)
        rounded = stored.astype(np.float32)
        for stream in self._streams:
            rounded[:, stream.offset : stream.offset + stream.width] *= scales.get(stream.name, 1.0)
        return rounded

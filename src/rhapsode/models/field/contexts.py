"""From a context to the numbers that a field reads: hashed n-grams beside what a teacher did, projected.

Shape letters: B sequences, P ids before them, T ids of a call, W window, F raw numbers, N contexts, Z projected
numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.config import build_config
from rhapsode.memory.token_files import read_arrays, write_arrays
from rhapsode.models.field.base import BEFORE
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.ops.sketch.config import ProjectionConfig
from rhapsode.ops.sketch.projection import Projection, RawFeatures, load_projection
from rhapsode.ops.sketch.whitening import StreamingCovariance, Whitening


@runtime_checkable
class ContextSource(Protocol):
    """Reads a teacher while text is scored or generated."""

    context: int
    """Ids that the teacher looks at, the present one included."""
    width: int
    """Numbers of a position."""

    def windows(self, past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"], window: int) -> Float[Tensor, "N F"]:
        """Return the raw vector of the window that ends at each of `ids`, oldest position first; rows of B T."""
        ...


class SparseContexts(NamedTuple):
    """Sketched contexts by what is not zero: buckets and signed weights, (N, J) each."""

    rows: Tensor
    weights: Tensor


def last_windows(past: Int[Tensor, "B P"], ids: Int[Tensor, "B T"], window: int) -> Int[Tensor, "N W"]:
    """Return the window that ends at each of `ids`, oldest id first, rows of B T; `BEFORE` in front of the text."""
    joined = torch.cat([past, ids], dim=1)
    missing = window - 1 - past.shape[1]
    if missing > 0:
        joined = torch.cat([joined.new_full((len(joined), missing), BEFORE), joined], dim=1)
    joined = joined[:, joined.shape[1] - ids.shape[1] - window + 1 :]
    return joined.unfold(1, window, 1).reshape(-1, window)


class ContextProjection:
    """Hashed n-grams and order hashes of a window, beside a teacher's streams, sketched to `views` times `dim` numbers.

    Each stream is divided by the length that it usually has, so that one does not drown the others; the indicators have
    length one as they are.
    """

    def __init__(self, projection: Projection, stream_scales: Float[Tensor, " F"] | None) -> None:
        """Use `build` or `load`.

        Args:
            stream_scales: what a position's numbers are multiplied by; None where no teacher is read.
        """
        self.inner = projection
        self.stream_scales = stream_scales

    @classmethod
    def build(
        cls, config: FieldModelConfig, seed: int, stream_scales: Float[Tensor, " F"] | None = None
    ) -> "ContextProjection":
        """Draw the projection; everything but the scales and the whitening follows from the seed."""
        width = 0 if stream_scales is None else len(stream_scales)
        settings = {
            "dense_dim": width * config.window,
            "window": config.window,
            "ngram_orders": config.ngram_lengths,
            "order_decay": config.order_decay,
            # four times as many buckets as numbers: fewer contexts collide before they are mixed.
            "num_buckets": 4 * config.dim,
            "dim": config.dim,
            "views": config.views,
            "whiten": config.whiten,
            "seed": seed,
        }
        return cls(Projection(build_config(ProjectionConfig, settings, "projection")), stream_scales)

    @property
    def out_dim(self) -> int:
        """Z."""
        return self.inner.out_dim

    @torch.no_grad()
    def __call__(self, windows: Int[Tensor, "N W"], raw: Float[Tensor, "N F"] | None) -> Float[Tensor, "N Z"]:
        """Project contexts: float32, summed in float32."""
        return self.inner(self._features(windows, raw), torch.float32)

    @torch.no_grad()
    def sparse(self, windows: Int[Tensor, "N W"]) -> SparseContexts:
        """Return the sketches of contexts of ids alone before they are mixed; see `Projection.rows`."""
        return SparseContexts(*self.inner.rows(self._features(windows, None)))

    @property
    def num_rows(self) -> int:
        """Buckets of all views: rows of a table that reads `sparse`."""
        return self.inner.config.views * self.inner.config.num_buckets

    def statistics(self, windows: Int[Tensor, "N W"], raw: Float[Tensor, "N F"] | None) -> Float[Tensor, "N Z"]:
        """Return contexts as the whitening sees them."""
        return self.inner.project(self._features(windows, raw))

    def fit_whitening(self, statistics: StreamingCovariance) -> Whitening:
        """Fit the whitening, once, and freeze it."""
        self.inner = self.inner.fit(statistics)
        assert self.inner.whitening is not None
        return self.inner.whitening

    def indicators(self, windows: Int[Tensor, "N W"], raw: Float[Tensor, "N F"] | None) -> Float[Tensor, "N S"]:
        """Return the raw vectors themselves, without the coordinates that are zero in all of them; for few contexts."""
        sparse = []
        for found, weights in self.inner.indicators(windows):
            names, place = torch.unique(found, return_inverse=True)
            rows = torch.zeros(len(found), len(names)).scatter_add_(1, place, weights)
            sparse.append(rows[:, names >= 0])
        dense = self._features(windows, raw).dense
        return torch.cat([*([] if dense is None else [dense]), *sparse], dim=1)

    def save(self, folder: Path) -> None:
        """Write the projection into a folder that exists. Raises StateError if it cannot be written."""
        self.inner.save(folder)
        if self.stream_scales is not None:
            write_arrays(folder / "streams.safetensors", {"scales": self.stream_scales.numpy()})

    @classmethod
    def load(cls, folder: Path, has_streams: bool) -> "ContextProjection":
        """Read what `save` wrote. Raises StateError if it is missing or damaged."""
        scales = None
        if has_streams:
            scales = torch.from_numpy(read_arrays(folder / "streams.safetensors", ["scales"])["scales"])
        return cls(load_projection(folder), scales)

    def _features(self, windows: Tensor, raw: Tensor | None) -> RawFeatures:
        dense = None
        if self.stream_scales is not None:
            assert raw is not None
            dense = raw * self.stream_scales.repeat(windows.shape[1])
        return RawFeatures(dense=dense, window=windows)


def measure_stream_scales(features: Float[Tensor, "N F"], widths: Sequence[int]) -> Float[Tensor, " F"]:
    """Return, for each number of a position, one over the root mean square length of its stream."""
    scales = []
    for part in torch.split(features, list(widths), dim=1):
        length = float(part.square().sum(dim=1).mean().sqrt()) if part.shape[1] else 0.0
        scales.append(torch.full((part.shape[1],), 1 / length if length > 0 else 1.0))
    return torch.cat(scales)

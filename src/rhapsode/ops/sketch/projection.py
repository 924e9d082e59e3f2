"""The whole way of a raw feature vector: dense streams and hashed indicators -> sketch -> SRHT -> whitening."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rhapsode.config import build_config
from rhapsode.errors import StateError, UserError
from rhapsode.ops.sketch.config import ProjectionConfig
from rhapsode.ops.sketch.count_sketch import CountSketch, SketchTables
from rhapsode.ops.sketch.ngram_indicators import BloomNgrams, OrderHashes
from rhapsode.ops.sketch.srht import BlockSRHT
from rhapsode.ops.sketch.whitening import StreamingCovariance, Whitening, fit_whitening
from rhapsode.runfolder import read_json, write_atomic, write_json


@dataclass(frozen=True)
class RawFeatures:
    """A batch of raw vectors; parts that the config does not name are None.

    dense (B, dense_dim) floating; window (B, window) int64, -1 where there is no token; ids (B, K) int64 below
    sparse_dim, -1 for padding; values (B, K) floating, or None for ones.
    """

    dense: Tensor | None = None
    window: Tensor | None = None
    ids: Tensor | None = None
    values: Tensor | None = None


_TINY = 1e-12


@dataclass(frozen=True)
class _View:
    sketch: CountSketch
    tables: SketchTables
    srht: BlockSRHT


@dataclass(frozen=True)
class Projection:
    """A frozen map from raw features to `views` times `dim` numbers. Everything but the whitening follows from a seed.

    Raises:
        UserError: on sizes that do not fit each other.
    """

    config: ProjectionConfig
    whitening: Whitening | None = None
    device: str = "cpu"
    bloom: BloomNgrams = field(init=False, repr=False, compare=False)
    order: OrderHashes = field(init=False, repr=False, compare=False)
    _views: tuple[_View, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        c = self.config
        bloom = BloomNgrams(c.bloom_bits, tuple(c.ngram_orders), c.bloom_hashes, c.seed)
        views = tuple(self._view(c.seed * 1024 + view) for view in range(c.views))
        for name, value in {"bloom": bloom, "order": OrderHashes(c.order_slots, c.seed), "_views": views}.items():
            object.__setattr__(self, name, value)

    def _view(self, seed: int) -> _View:
        c = self.config
        sketch = CountSketch(c.num_buckets, c.num_hashes, seed)
        return _View(
            sketch, sketch.tables(c.dense_dim, self.device), BlockSRHT(c.num_buckets, c.dim, 0, seed, self.device)
        )

    @property
    def out_dim(self) -> int:
        """Width of a projected vector."""
        return self.config.views * self.config.dim

    def __call__(self, raw: RawFeatures, dtype: torch.dtype | None = None) -> Float[Tensor, "B {self.out_dim}"]:
        """Project and whiten a batch; sums are float32. Differentiable in the dense part and the values.

        Args:
            dtype: of the result; that of the dense part if None, float32 without one.

        Raises:
            UserError: if a part is missing or of another shape, a number is not finite, or the result overflows.
        """
        wanted = dtype or (raw.dense.dtype if raw.dense is not None else torch.float32)
        y = self.project(raw)
        if self.whitening is not None:
            y = self.whitening.apply(y)
        limit = torch.finfo(wanted).max
        if y.numel() and (largest := float(y.detach().abs().max())) > limit:
            raise UserError(
                f"projected features must fit {wanted}, at most {limit:g}; got {largest:g}. "
                f"Set scale to at most {self.config.scale * limit / (4 * largest):.3g}."
            )
        return y.to(wanted)

    def project(self, raw: RawFeatures) -> Float[Tensor, "B {self.out_dim}"]:
        """Return the projected features before whitening, float32. Raises UserError as a call does."""
        self._check(raw)
        sparse = self._sparse(raw)
        parts = []
        for view in self._views:
            buckets = view.tables.dense(raw.dense) if raw.dense is not None else None
            if sparse is not None:
                added = view.sketch.sparse(*sparse)
                buckets = added if buckets is None else buckets + added
            assert buckets is not None
            parts.append(view.srht.project(buckets))
        return torch.cat(parts, 1) * self.config.scale

    def rows(self, raw: RawFeatures) -> tuple[Int64[Tensor, "B J"], Float[Tensor, "B J"]]:
        """Return what is not zero in the sketches of a vector without a dense part, before they are mixed.

        A matrix applied to a sketch is a sum of its rows at `J = views K num_hashes` places: rows of view v begin at
        v num_buckets. Whatever a matrix W makes of the projected vector, the matrix W R H D makes of the sketch, so
        nothing is lost by leaving the mixing out; it costs O(B K) instead of O(B num_buckets).

        Returns:
            rows and signed weights; padding has weight 0.

        Raises:
            UserError: as a call does.
        """
        self._check(raw)
        sparse = self._sparse(raw)
        assert sparse is not None
        assert raw.dense is None
        ids, values = sparse
        places, weights = [], []
        for number, view in enumerate(self._views):
            buckets, signs = view.sketch.hashes(ids)
            scale = self.config.scale / math.sqrt(self.config.num_hashes)
            places.append((buckets + number * self.config.num_buckets).flatten(1))
            weights.append((signs * ((ids >= 0) * values * scale).unsqueeze(-1)).flatten(1))
        return torch.cat(places, 1), torch.cat(weights, 1).float()

    def _sparse(self, raw: RawFeatures) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]] | None:
        """Return all sparse coordinates of the raw vector, which come after the dense ones."""
        c = self.config
        ids, values = [], []
        start = c.dense_dim
        if raw.window is not None:
            for (found, weights), size in zip(self.indicators(raw.window), (c.bloom_bits, c.order_slots), strict=True):
                ids.append(torch.where(found < 0, -1, found + start))
                values.append(weights)
                start += size
        else:
            start += c.bloom_bits + c.order_slots
        if raw.ids is not None:
            ids.append(torch.where(raw.ids < 0, -1, raw.ids + start))
            values.append(torch.ones_like(raw.ids, dtype=torch.float32) if raw.values is None else raw.values.float())
        return (torch.cat(ids, 1), torch.cat(values, 1)) if ids else None

    def indicators(
        self, window: Int64[Tensor, "B W"]
    ) -> tuple[tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]], tuple[Int64[Tensor, "B W"], Float[Tensor, "B W"]]]:
        """Return the set bits of the Bloom filter and the slots of the order hashes, each with their weights.

        The weights of a kind have length `indicator_weight`; those of padding, -1, are 0.
        """
        c = self.config
        bits, slots = self.bloom.bits(window), self.order.slots(window)
        distances = torch.arange(window.shape[1] - 1, -1, -1, device=window.device)
        falling = (1.0 + distances).pow(-c.order_decay).expand(slots.shape)
        parts = []
        for found, weights in ((bits, torch.ones(bits.shape, device=bits.device)), (slots, falling)):
            weights = weights * (found >= 0)
            length = weights.square().sum(1, keepdim=True).sqrt().clamp_min(_TINY)
            parts.append((found, c.indicator_weight * weights / length))
        return parts[0], parts[1]

    def _check(self, raw: RawFeatures) -> None:
        c = self.config
        for name, part, width in (
            ("dense", raw.dense, c.dense_dim),
            ("window", raw.window, c.window),
            ("ids", raw.ids, c.sparse_dim),
        ):
            if (part is None) != (width == 0):
                what = "be given" if part is None else "be None"
                raise UserError(f"{name} must {what}; the projection was made for {width} of it. Change its config.")
            if part is not None and name != "ids" and part.shape[1] != width:
                raise UserError(f"{name} must have {width} columns; got {part.shape[1]}. Change its config.")
        if raw.ids is not None and raw.ids.numel() and int(raw.ids.max()) >= c.sparse_dim:
            raise UserError(
                f"ids must be below sparse_dim = {c.sparse_dim}; got {int(raw.ids.max())}. Raise sparse_dim."
            )
        for name, part in (("dense", raw.dense), ("values", raw.values)):
            if part is not None and not torch.isfinite(part).all():
                raise UserError(f"{name} must be finite; got NaN or infinity. Find the stream that it comes from.")

    def statistics(self) -> StreamingCovariance:
        """Return empty statistics, to be updated with what `project` returns and given to `fit`."""
        return StreamingCovariance(self.out_dim, device=self.device)

    def fit(self, statistics: StreamingCovariance) -> "Projection":
        """Return the projection with its whitening, which is `config.whiten`, fitted and frozen.

        Raises:
            StateError: if it has one already, or the statistics do not suffice.
        """
        if self.whitening is not None:
            raise StateError("whitening is fitted once and then frozen; got a second fit. Make a new Projection.")
        return replace(self, whitening=fit_whitening(statistics, self.config.whiten, self.config.epsilon))

    def save(self, folder: Path | str) -> None:
        """Write projection.json and, if there is a whitening, projection.safetensors; atomic, the JSON last.

        Raises:
            StateError: if the folder cannot be written.
        """
        folder = Path(folder)
        about: dict[str, Any] = {"format_version": 1, "config": self.config.model_dump(mode="json"), "whitening": None}
        if self.whitening is not None:
            w = self.whitening
            about["whitening"] = w.kind
            tensors = {"mean": w.mean, "forward": w.forward, "backward": w.backward}
            data = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
            write_atomic(folder / "projection.safetensors", data)
        write_json(folder / "projection.json", about)


def load_projection(folder: Path | str, device: str = "cpu") -> Projection:
    """Read what `save` wrote; it projects bit for bit as before.

    Raises:
        StateError: if a file is missing or damaged.
    """
    folder = Path(folder)
    about = read_json(folder / "projection.json")
    try:
        config = build_config(ProjectionConfig, about["config"], "projection")
        kind = about["whitening"]
        if kind is None:
            return Projection(config, device=device)
        tensors = load((folder / "projection.safetensors").read_bytes())
        parts = [tensors[name].to(device) for name in ("mean", "forward", "backward")]
    except (KeyError, TypeError, OSError, SafetensorError, UserError) as error:
        raise StateError(f"{folder} must hold a projection; got: {json.dumps(str(error))}. Fit it again.") from None
    return Projection(config, Whitening(kind, *parts), device)

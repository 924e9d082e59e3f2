"""What a person can set about a field of local-linear units. Torch-free."""

from typing import Literal

from pydantic import Field as Setting
from pydantic import model_validator

from rhapsode.config import Config
from rhapsode.errors import UserError


class FieldConfig(Config):
    """Settings of a field."""

    num_units: int = Setting(default=1024, ge=1)
    """Units of the field."""
    num_active: int = Setting(default=32, ge=1)
    """Units that answer for one input: those of least energy."""
    gate: Literal["slab", "ball", "product"] = "ball"
    """What nearness is: distance to a unit's plane, to its centre, or both."""
    blend: Literal["softmax", "inverse"] = "softmax"
    """How the active units share an answer: by a Gaussian of their distance, or by its inverse."""
    interpolation: Literal["lerp", "hermite", "catmull_rom", "local_poly", "wavelet"] = "hermite"
    """How a unit's three controls are joined along its normal."""
    rank: int | None = Setting(default=64, ge=1)
    """Numbers in a control, decoded by one matrix that all units share; none: a control has one for every output."""
    band: float = Setting(default=2.0, gt=0)
    """Where both edges of a band start, in standard deviations of the signed distance."""
    init: Literal["random", "kmeans"] = "kmeans"
    """Start of the units where data is given: drawn, or planes through the centres of clusters."""
    sharing: float = Setting(default=0.25, gt=0, le=1)
    """The temperature starts where so large a share of the active units has weight (exponential of the entropy)."""
    search: Literal["auto", "exact", "reranked", "index"] = "auto"
    """How active units are found: every energy, a pass in bfloat16 whose best are ranked again, or an index."""
    index_from: int = Setting(default=20_000, ge=1)
    """Units from which `auto` leaves the exact search: for an index where dimensions are few, or for `reranked`."""
    index_share: float = Setting(default=0.1, gt=0, le=1)
    """Share of the index's cells that a search visits."""
    search_copy: bool = True
    """Whether `reranked` keeps the units in bfloat16, 2 D bytes each and as much again in a product, while they do not
    change; without it every search casts them anew."""

    @model_validator(mode="after")
    def _enough_units(self) -> "FieldConfig":
        if self.num_active > self.num_units:
            raise UserError(
                f"field.num_active must be at most field.num_units; got {self.num_active} and {self.num_units}. "
                f"Try {min(32, self.num_units)}."
            )
        return self


class RelocationConfig(Config):
    """Settings of the moves of idle units to where the loss is high."""

    every: int = Setting(default=100, ge=1)
    """Updates between two rounds of moves."""
    max_moves: int = Setting(default=8, ge=1)
    """Units moved in a round, at most."""
    queue_size: int = Setting(default=128, ge=1)
    """Contexts of highest loss that are kept."""
    quantile: float = Setting(default=0.1, gt=0, lt=1)
    """A unit is idle if its decayed usage or gradient norm is at or under this quantile of all units."""
    decay: float = Setting(default=0.99, gt=0, lt=1)
    """Factor on every unit's statistics at each update, used or not."""
    strength: float = Setting(default=2.0, gt=0)
    """The residual is set into a moved unit's controls times the least of this and one over the unit's blend weight."""

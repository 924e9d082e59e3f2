"""What a person can set about a distillation. Torch-free."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rhapsode.config import Config, build_config, merge, read_toml
from rhapsode.errors import UserError, unknown_name
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.nn.field.config import RelocationConfig
from rhapsode.text.config import DataConfig
from rhapsode.training.config import recipe_names, recipe_path
from rhapsode.training.distill.streams import parse_streams


class DistillConfig(Config):
    """What is read of the teacher, and how the field learns from it."""

    minutes: float | None = Field(default=None, gt=0)
    """Budget in minutes of training; three if none is given. Capture and evaluation are reported apart."""
    steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps instead."""
    max_epochs: float = Field(default=1.0, gt=0)
    """Times that the text is read at most where minutes are the budget: read more often, it is learnt by heart."""
    seed: int = Field(default=0, ge=0)
    """Decides projections, units and the order of the text."""

    capture: str | None = None
    """Streams of the teacher that a probe reads, with commas, or all; without it, all that the teacher has."""
    top_k: int | None = Field(default=None, ge=1)
    """Likeliest ids of the teacher that are kept, all others being one mass; without it, 32 or all there are."""
    max_positions: int | None = Field(default=None, ge=1)
    """Training positions that are captured, from the beginning of the text; without it, all."""
    hard: float = Field(default=0.5, ge=0, le=1)
    """Weight of what came against what the teacher said would."""
    folds: int = Field(default=8, ge=2, le=64)
    """Parts of the training text, each predicted from counts of the others while the field learns."""

    batch_size: int = Field(default=512, ge=1)
    """Positions of an update."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate of the field."""
    stage1_rate: float = Field(default=0.15, gt=0)
    """Rate of the first stage over learning_rate: its matrix reads thousands of numbers, which all move at once."""
    table_rate: float = Field(default=20.0, gt=0)
    """Rate of a table over learning_rate: each of its rows learns from the few contexts that hold it."""
    linear_rate: float = Field(default=3.0, gt=0)
    """Rate of the linear map beside the field, over learning_rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the first stage."""
    cache_gb: float = Field(default=4.0, ge=0)
    """Disk for projected contexts, computed once; those past it are computed each time. A table needs none."""
    control_rate: float = Field(default=30.0, gt=0)
    """Rate of the units' controls over learning_rate: weights sum to one, so that each of them moves little."""
    joint: Literal["joint", "frozen"] = "joint"
    """Whether the first stage learns with the second, or stays as it was drawn."""
    units_from: float = Field(default=0.5, ge=0, lt=1)
    """Share of the budget after which the units join the line, at what it leaves over; without a line, at once."""
    seed_positions: int = Field(default=8_192, ge=1)
    """Positions that the units start from."""
    relocate: bool = False
    """Move idle units to the contexts of highest loss; off, since it was not shown to help here."""
    relocation: RelocationConfig = RelocationConfig()
    """Settings of these moves."""

    eval_positions: int | None = Field(default=None, ge=2)
    """Validation positions of the final figures; without it, all."""
    online_rate: float = Field(default=5e-4, gt=0)
    """Rate of the field that keeps learning from the text it has scored."""
    online_block: int = Field(default=64, ge=1)
    """Positions that are scored before they are learnt, at a time."""
    device: str = "auto"
    """`auto` takes a GPU where there is one, else the CPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; without it, as many as cores."""

    @field_validator("capture")
    @classmethod
    def _known_streams(cls, text: str | None) -> str | None:
        if text is not None:
            parse_streams(text)
        return text

    @model_validator(mode="after")
    def _one_budget(self) -> "DistillConfig":
        if self.minutes is not None and self.steps is not None:
            raise UserError("training must have one budget; got minutes and steps. Keep one of them.")
        return self


class DistillRecipe(Config):
    """Everything that decides a distillation, apart from the teacher and the sources."""

    kind: Literal["field"] = "field"
    """What is made; recipes of decoders have no such entry."""
    name: str = "custom"
    """Name of the recipe that this one started from."""
    data: DataConfig = DataConfig()
    """How text is split."""
    model: FieldModelConfig = FieldModelConfig()
    """The field and what it reads."""
    training: DistillConfig = DistillConfig()
    """How it is taught."""

    @model_validator(mode="after")
    def _streams_are_read(self) -> "DistillRecipe":
        if self.model.mode == "replacement" and self.training.capture is not None:
            raise UserError(
                f"training.capture must be left out in replacement mode, which reads ids only; got "
                f"'{self.training.capture}'. Use --mode probe, or leave it out."
            )
        return self

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self.model_dump(mode="json")


def load_distill_recipe(name_or_path: str, overrides: dict[str, Any] | None = None) -> DistillRecipe:
    """Load a shipped recipe by name, or one from a TOML file, with `overrides` on top.

    Raises:
        UserError: if there is no such recipe, it makes something else, or a setting is unknown or wrong.
    """
    if name_or_path.endswith(".toml"):
        values = read_toml(Path(name_or_path))
    elif name_or_path in recipe_names("field"):
        values = {"name": name_or_path, **read_toml(recipe_path(name_or_path))}
    elif name_or_path in recipe_names():
        raise UserError(f"--recipe must be one of {', '.join(recipe_names('field'))}; got {name_or_path}, for train.")
    else:
        raise unknown_name("--recipe", name_or_path, recipe_names("field"))
    return build_config(DistillRecipe, merge(values, overrides or {}))

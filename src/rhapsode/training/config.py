"""What a person can set about training, and the recipe that names it all. Torch-free."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rhapsode.config import Config, build_config, merge, read_toml
from rhapsode.errors import UserError, unknown_name
from rhapsode.models.config import ModelConfig
from rhapsode.text.config import DataConfig, TokenizerConfig


class TrainingConfig(Config):
    """How long, how fast and how carefully to train."""

    minutes: float | None = Field(default=None, gt=0)
    """Budget in minutes from the first step, compilation and periodic evaluation included."""
    tokens: int | None = Field(default=None, ge=1)
    """Budget in training tokens."""
    steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes over the training text."""

    seed: int = Field(default=0, ge=0)
    """Decides the initial weights and the order of the windows."""
    batch_size: int = Field(default=32, ge=1)
    """Windows of seq_len tokens in one forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes for one optimizer step."""
    isolate_documents: bool = False
    """Let nothing pass from one document to the next inside a window."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for matrices and AdamW for the rest, or AdamW for all."""
    learning_rate: float = Field(default=0.02, gt=0)
    """Peak rate of the matrices."""
    embedding_rate: float = Field(default=0.5, gt=0)
    """Rate of the embedding tables over learning_rate."""
    head_rate: float = Field(default=0.15, gt=0)
    """Rate of the head and of vectors over learning_rate."""
    adam_betas: tuple[float, float] = (0.8, 0.95)
    """Averaging of AdamW's gradient and of its square."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the matrices, times the rate."""
    warmup_steps: int = Field(default=20, ge=0)
    """Optimizer steps over which the rate rises to its peak."""
    cooldown: float = Field(default=0.6, ge=0, le=1)
    """Last share of the budget over which the rate falls to zero in a line."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; `none` does not clip."""
    loss_chunk_size: int = Field(default=0, ge=0)
    """Rows of logits held at once; 0 holds all."""

    eval_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between evaluations; without it, eight evaluations over the budget."""
    eval_tokens: int = Field(default=32_768, ge=1)
    """Validation tokens of a periodic evaluation; the final one uses all."""
    save_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints; without it, one every 30 seconds and at the end."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations without an improvement after which training stops."""

    device: str = "auto"
    """`auto` takes a GPU where there is one, else the CPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; without it, as many as cores."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward pass; weights and sums stay float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: where more than a minute is planned and a C++ compiler exists, always, or never."""

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingConfig":
        given = [name for name in ("minutes", "tokens", "steps", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"training must have one budget; got {' and '.join(given)}. Keep one of them.")
        return self


class Recipe(Config):
    """Everything that decides a run, apart from its sources."""

    name: str = "custom"
    """Name of the recipe that this one started from."""
    params: int | None = None
    """Parameter budget: 90-100 % of it is used. Without it, the size follows from text and minutes."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes ids."""
    data: DataConfig = DataConfig()
    """How text is split."""
    model: ModelConfig = ModelConfig()
    """The four parts and their sizes."""
    training: TrainingConfig = TrainingConfig()
    """How the model is trained."""


def recipe_names(kind: str = "decoder") -> list[str]:
    """Return the names of the recipes that ship with the package and make models of a kind: `decoder` or `field`."""
    names = [entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")]
    return sorted(name for name in names if read_toml(recipe_path(name)).get("kind", "decoder") == kind)


def recipe_path(name: str) -> Path:
    """Return the file of a shipped recipe."""
    return Path(str(_folder() / f"{name}.toml"))


def recipe_summary(name: str) -> str:
    """Return the first sentence of the comment at the top of a shipped recipe."""
    first = recipe_path(name).read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("# ")


def load_recipe(name_or_path: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Load a shipped recipe by name, or one from a TOML file, with `overrides` on top.

    Raises:
        UserError: if there is no such recipe, or a setting is unknown or wrong.
    """
    if name_or_path.endswith(".toml"):
        values = read_toml(Path(name_or_path))
    elif name_or_path in recipe_names():
        values = {"name": name_or_path, **read_toml(recipe_path(name_or_path))}
    elif name_or_path in recipe_names("field"):
        raise UserError(f"--recipe {name_or_path} must be used by rhapsode distill. Train a teacher with another.")
    else:
        raise unknown_name("--recipe", name_or_path, recipe_names())
    return build_config(Recipe, merge(values, overrides or {}))


def _folder() -> Any:
    return files("rhapsode.recipes")

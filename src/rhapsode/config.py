"""Frozen, checked settings: one class beside the component it configures.

The docstring under an attribute is its help text. Precedence is default < recipe < command line
(`--set training.learning_rate=3e-4`). Nothing here imports torch.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rhapsode.errors import UserError, unknown_name

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every settings class: immutable, and an unknown setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_may_be_a_word(cls, values: Any) -> Any:
        """`--set x=none` means no value, but where `none` is one of the words to choose from, it means that."""
        if not isinstance(values, Mapping):
            return values
        choices = {name: get_args(f.annotation) for name, f in cls.model_fields.items() if _is_literal(f.annotation)}
        return {n: "none" if v is None and "none" in choices.get(n, ()) else v for n, v in values.items()}


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def build_config(config_class: type[ConfigT], values: Mapping[str, Any], path: str = "") -> ConfigT:
    """Check `values` against `config_class`.

    Args:
        values: nested mapping, as read from TOML.
        path: prefix for the names in error messages, such as `model`.

    Raises:
        UserError: naming the setting, the rule, the value, and the nearest known name.
    """
    try:
        return config_class.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(config_class, error, path) from None


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `["training.learning_rate=3e-4", "model.embed=table"]` into a nested mapping.

    A value is read as TOML; what is not TOML is taken as a string, so that `table` needs no quotes.

    Raises:
        UserError: if an assignment has no `=` or sets the same path twice.
    """
    nested: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, raw = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set must look like section.name=value; got '{assignment}'.")
        *parents, name = path.strip().split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise UserError(f"--set {path} must not set a name inside a plain value. Set one of them.")
        if name in level:
            raise UserError(f"--set {path} must be given once; got it twice.")
        level[name] = _parse_value(raw.strip())
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with every value of `over` put on top, section by section."""
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} must be a readable file; got {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must be valid TOML; got: {error}.") from None


def _parse_value(raw: str) -> Any:
    if raw.lower() in {"none", "null"}:
        return None
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(config_class: type[Config], error: ValidationError, path: str) -> UserError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join([path, *location] if path else location)
    if first["type"] == "extra_forbidden":
        return unknown_name(f"the setting {name}", location[-1], _fields_at(config_class, location[:-1]))
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        # validators of ours already speak in whole sentences.
        return UserError(first["msg"].removeprefix("Value error, "))
    if first["type"] == "missing":
        return UserError(f"{name} must be given.")
    return UserError(f"{name} must {message}; got {first['input']!r}.")


def _fields_at(config_class: type[Config], location: Sequence[str]) -> list[str]:
    fields = config_class.model_fields
    for part in location:
        field = fields.get(part)
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = next((c for c in candidates if isinstance(c, type) and issubclass(c, Config)), None)
        if nested is None:
            return []
        fields = nested.model_fields
    return list(fields)


_MULTIPLIERS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def parse_count(text: str | int, setting: str) -> int:
    """Read a count such as `5M`, `300k`, `1.5B` or `12000`.

    >>> parse_count("1.5M", "--params")
    1500000

    Raises:
        UserError: if it is not a positive count.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmb]?)", str(text).strip().lower().replace("_", ""))
    if match is None or (count := round(float(match[1]) * _MULTIPLIERS[match[2]])) < 1:
        raise UserError(f"{setting} must be a positive count such as 300k, 5M or 1.5B; got {text}.")
    return count

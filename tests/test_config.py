"""Settings: frozen, strict, and errors that name the setting, the rule and the value."""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from rhapsode.config import Config, build_config, merge, parse_count, parse_overrides, read_toml
from rhapsode.errors import UserError


class Inner(Config):
    learning_rate: float = Field(default=0.1, gt=0)
    """Peak rate."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalisation."""


class Outer(Config):
    inner: Inner = Inner()
    """The inner part."""
    maybe: Inner | None = None
    """An inner part, or none."""
    name: str
    """What it is called."""
    even: int = 0
    """An even number."""

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise UserError(f"outer.even must be even; got {value}. Try {value + 1}.")
        return value


def test_defaults_values_and_help_texts() -> None:
    config = build_config(Outer, {"name": "x", "inner": {"learning_rate": 3}})
    assert config.inner.learning_rate == 3.0
    assert config.inner.norm == "rms"
    assert config.maybe is None
    assert Inner.model_fields["learning_rate"].description == "Peak rate."


def test_a_config_is_frozen() -> None:
    config = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        config.learning_rate = 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "x", "inner": {"learnin_rate": 1}},
            r"^the setting model\.inner\.learnin_rate must be one of learning_rate, norm; got 'learnin_rate'\. "
            r"Did you mean 'learning_rate'\?$",
        ),
        (
            {"name": "x", "maybe": {"nrom": 1}},
            r"^the setting model\.maybe\.nrom must be one of learning_rate, norm; got 'nrom'\. Did you mean 'norm'\?$",
        ),
        (
            {"nam": "x"},
            r"^model\.name must be given\.$",
        ),
        (
            {"name": "x", "evn": 2},
            r"^the setting model\.evn must be one of even, inner, maybe, name; got 'evn'\. Did you mean 'even'\?$",
        ),
        (
            {"name": "x", "inner": {"learning_rate": 0}},
            r"^model\.inner\.learning_rate must be greater than 0; got 0\.$",
        ),
        (
            {"name": "x", "inner": {"learning_rate": "fast"}},
            r"^model\.inner\.learning_rate must be a valid number, unable to parse string as a number; got 'fast'\.$",
        ),
        (
            {"name": "x", "inner": {"learning_rate": math.inf}},
            r"^model\.inner\.learning_rate must be a finite number; got inf\.$",
        ),
        (
            {"name": "x", "inner": {"learning_rate": math.nan}},
            r"^model\.inner\.learning_rate must be a finite number; got nan\.$",
        ),
        ({"name": "x", "inner": {"norm": "batch"}}, r"^model\.inner\.norm must be 'rms' or 'layer'; got 'batch'\.$"),
        ({"name": "x", "inner": 3}, r"^model\.inner must be a valid dictionary or instance of Inner; got 3\.$"),
        ({"name": 3}, r"^model\.name must be a valid string; got 3\.$"),
        ({"name": "x", "even": 3}, r"^outer\.even must be even; got 3\. Try 4\.$"),
    ],
)
def test_errors_name_the_setting_the_rule_and_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(Outer, values, path="model")


def test_without_a_path_the_name_starts_at_the_setting() -> None:
    with pytest.raises(UserError, match=r"^even must be a valid integer"):
        build_config(Outer, {"name": "x", "even": 0.5})


def test_build_config_leaves_its_input_alone() -> None:
    values = {"name": "x", "inner": {"norm": "layer"}}
    build_config(Outer, values)
    assert values == {"name": "x", "inner": {"norm": "layer"}}


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("1_000", 1000),
        ("true", True),
        ("True", "True"),
        ("table", "table"),
        ('"table"', "table"),
        ("sliding sliding attention", "sliding sliding attention"),
        ("[2, 3]", [2, 3]),
        ("{a = 1}", {"a": 1}),
        ("none", None),
        ("Null", None),
        ("", ""),
        (" 7 ", 7),
        ("a=b", "a=b"),
        ("/data/text.txt", "/data/text.txt"),
    ],
)
def test_override_values_are_toml_or_plain_strings(raw: str, value: object) -> None:
    parsed = parse_overrides([f"section.name={raw}"])
    assert parsed == {"section": {"name": value}}
    assert type(parsed["section"]["name"]) is type(value)


def test_overrides_nest() -> None:
    assert parse_overrides(["a.b.c=1", " a.b.d = x", "e=2", "a.f=none"]) == {
        "a": {"b": {"c": 1, "d": "x"}, "f": None},
        "e": 2,
    }
    assert parse_overrides([]) == {}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["learning_rate"], r"^--set must look like section\.name=value; got 'learning_rate'\.$"),
        (["=3"], r"^--set must look like section\.name=value; got '=3'\.$"),
        (["  =3"], r"^--set must look like section\.name=value; got '  =3'\.$"),
        (["a.b=1", "a.b=1"], r"^--set a\.b must be given once; got it twice\.$"),
        (["a.b=1", "a=2"], r"^--set a must be given once; got it twice\.$"),
        (["a=1", "a.b=2"], r"^--set a\.b must not set a name inside a plain value\. Set one of them\.$"),
        (["a=none", "a.b=2"], r"^--set a\.b must not set a name inside a plain value\. Set one of them\.$"),
    ],
)
def test_bad_overrides(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_overrides(assignments)


plain = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False))


@settings(deadline=None)
@given(value=plain)
def test_a_number_survives_the_command_line(value: object) -> None:
    raw = tomli_w.dumps({"value": value}).removeprefix("value = ").strip()
    assert parse_overrides([f"a={raw}"]) == {"a": value}


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=12
)
sections = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def leaves(tree: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: leaf for name, part in tree.items() for key, leaf in leaves(part, (*path, name)).items()}


@settings(deadline=None)
@given(base=sections, over=sections)
def test_merge_puts_every_leaf_on_top_and_keeps_the_rest(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = leaves(merge(base, over))
    top, bottom = leaves(over), leaves(base)
    assert top.items() <= merged.items()
    for path, value in merged.items():
        assert path in top or bottom[path] == value
    for path, value in bottom.items():
        related = any(path[: len(other)] == other or other[: len(path)] == path for other in top)
        # an empty section on top of a plain value replaces it and leaves no leaf behind.
        hidden = any(_is_empty_section(over, path[:depth]) for depth in range(1, len(path) + 1))
        assert related or hidden or merged[path] == value


def _is_empty_section(tree: object, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return isinstance(tree, dict)


def test_merge_by_example() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"c": 4}, "d": {"e": 5}}) == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}
    assert merge(base, {"a": None}) == {"a": None, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_read_toml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "café"\n[model]\nwidth = 8\n', encoding="utf-8")
    assert read_toml(path) == {"name": "café", "model": {"width": 8}} == tomllib.loads(path.read_text("utf-8"))


def test_read_toml_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.toml must be a readable file; got No such file or directory\.$"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(UserError, match=r"must be a readable file; got Is a directory\.$"):
        read_toml(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text("a = = 1")
    with pytest.raises(UserError, match=r"bad\.toml must be valid TOML; got: Invalid value"):
        read_toml(bad)
    bad.write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match=r"bad\.toml must be valid TOML; got: 'utf-8' codec"):
        read_toml(bad)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("12000", 12_000),
        (12_000, 12_000),
        ("300k", 300_000),
        (" 5M ", 5_000_000),
        ("1.5B", 1_500_000_000),
        ("0.5k", 500),
        ("1_000", 1000),
        # rounded to a whole number.
        ("1.2345678M", 1_234_568),
    ],
)
def test_counts(text: str | int, count: int) -> None:
    assert parse_count(text, "--params") == count


@pytest.mark.parametrize("text", ["", "0", "0.0M", "-5M", "M", "5G", "5 M", "1e6", "five", "5MM", "nan", "inf", "٣"])
def test_bad_counts(text: str) -> None:
    with pytest.raises(
        UserError, match=rf"^--params must be a positive count such as 300k, 5M or 1\.5B; got {text}\.$"
    ):
        parse_count(text, "--params")


def test_none_is_a_word_where_it_can_be_chosen() -> None:
    class Choice(Config):
        kind: Literal["none", "some"] = "some"
        number: int | None = 3

    settings = parse_overrides(["kind=none", "number=none"])
    assert build_config(Choice, settings) == Choice(kind="none", number=None)
    with pytest.raises(UserError, match="kind must be 'none' or 'some'; got 3"):
        build_config(Choice, {"kind": 3})

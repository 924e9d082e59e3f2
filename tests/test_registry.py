"""Lazy tables of named parts: ours, those of other packages, and those that do not exist."""

import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.nn.config import EMBEDDERS, FEED_FORWARDS, HEADS, MIXERS
from rhapsode.registry import Entry, Registry


def make_registry() -> Registry:
    return Registry(
        "shelves", {"json": ("json:loads", "reads JSON"), "absent": ("no_such_module_at_all:Part", "is not there")}
    )


def test_entries_keep_their_order_and_import_nothing() -> None:
    registry = make_registry()
    assert registry.names() == ["json", "absent"]
    assert registry.entries()[0] == Entry("json", "json:loads", "reads JSON")
    assert "no_such_module_at_all" not in sys.modules


def test_load_imports_the_part() -> None:
    assert make_registry().load("json")("[1]") == [1]
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        make_registry().load("absent")


def test_unknown_names_are_the_users_error() -> None:
    registry = make_registry()
    assert registry.check("json", "shelf.kind") == "json"
    with pytest.raises(UserError, match=r"^shelf\.kind must be one of absent, json; got 'jason'\. Did you mean 'json'"):
        registry.check("jason", "shelf.kind")
    with pytest.raises(UserError, match=r"^shelves must be one of absent, json; got 'xyzzy'\. Choose one of these\.$"):
        registry.load("xyzzy")


def test_a_name_is_taken_once() -> None:
    registry = make_registry()
    with pytest.raises(ValueError, match=r"^shelves 'json' is registered twice: json:loads and other:Part\.$"):
        registry.register("json", "other:Part", "again")
    registry.register("more", "math:sqrt", "a root")
    assert registry.load("more")(9) == 3


def install(folder: Path, points: str) -> None:
    """Make `folder` hold an installed distribution with these entry points."""
    info = folder / "another-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    assert PathDistribution(info).entry_points


def test_other_packages_add_parts_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[rhapsode.shelves]\nroots = math:sqrt\n[rhapsode.others]\nother = math:exp\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = make_registry()
    assert registry.names() == ["json", "absent", "roots"]
    assert registry.names() == ["json", "absent", "roots"]
    assert registry.entries()[-1] == Entry("roots", "math:sqrt", "from another package")
    assert registry.load("roots")(16) == 4


def test_other_packages_cannot_replace_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[rhapsode.shelves]\njson = math:sqrt\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"^shelves 'json' is registered twice: json:loads and math:sqrt\.$"):
        make_registry().names()


@pytest.mark.parametrize("registry", [EMBEDDERS, MIXERS, HEADS, FEED_FORWARDS], ids=lambda r: r.kind)
def test_everything_registered_exists_and_says_what_it_is(registry: Registry) -> None:
    for entry in registry.entries():
        assert registry.load(entry.name).__doc__
        assert len(entry.summary) > 10
        assert "\n" not in entry.summary

"""The examples in docstrings say what happens."""

import doctest
import importlib
import pkgutil

import pytest

import rhapsode

MODULES = [m.name for m in pkgutil.walk_packages(rhapsode.__path__, "rhapsode.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", ["rhapsode", *MODULES])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert examples >= 3

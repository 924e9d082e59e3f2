"""The text that needs no download: there, of the expected size, and read without importing anything."""

import ast
from pathlib import Path

import pytest

from rhapsode.errors import StateError
from rhapsode.text.readers import Document
from rhapsode.text.stdlib import StdlibReader, docstrings, stdlib_files


def read(*, source: bool) -> list[Document]:
    return [Document(raw.name, "".join(raw.blocks)) for raw in StdlibReader(source=source).documents()]


def test_prose() -> None:
    documents = read(source=False)
    size = sum(len(document.text.encode()) for document in documents)
    assert 1_500_000 < size < 4_000_000
    by_name = {document.name: document.text for document in documents}
    assert by_name["stdlib:topics/assert"].startswith('The "assert" statement')
    assert "Encode a file" not in by_name["stdlib:json/__init__.py"]
    assert by_name["stdlib:json/__init__.py"].startswith("JSON (JavaScript Object Notation)")
    assert "Serialize ``obj`` to a JSON formatted ``str``" in by_name["stdlib:json/__init__.py"]
    assert read(source=False) == documents


def test_source() -> None:
    documents = read(source=True)
    assert 8_000_000 < sum(len(document.text.encode()) for document in documents) < 20_000_000
    by_name = {document.name: document.text for document in documents}
    assert "def dumps(" in by_name["stdlib:source/json/__init__.py"]
    assert not any("/test/" in name or "/tests/" in name or "idlelib" in name for name in by_name)


def test_modules_are_not_imported(imported_by_prose: set[str]) -> None:
    assert not imported_by_prose & {"antigravity", "this", "turtle", "pydoc_data.topics", "tkinter"}


def test_docstrings_come_in_order() -> None:
    code = '"m"\nclass A:\n  "a"\n  def f(self):\n    "f"\n    def g(): "g"\nif 1:\n  async def h(): "h"\ndef i(): 1\n'
    assert list(docstrings(ast.parse(code))) == ["m", "a", "f", "g", "h"]


def test_a_python_without_sources(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.py").write_text("pass")
    with pytest.raises(StateError, match=r"standard library must be there as source files; .* has none"):
        stdlib_files(tmp_path)

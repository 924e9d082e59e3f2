"""What can be named as a source, and what is said when it cannot be."""

import gzip
import json
from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.text.readers import JsonlReader, StdinReader, TextReader
from rhapsode.text.sources import open_readers
from rhapsode.text.stdlib import StdlibReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["b.txt", "a.md", "sub/c.rst", "sub/d.py", "sub/deep/e.txt.gz", "f.jsonl", "g.JSONL.GZ", "H.TXT"]
    for name in [*names, "skip.bin", "skip.gz", ".hidden.txt", ".git/h.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"x") if path.suffix.lower() == ".gz" else json.dumps({"text": name}).encode())
    return tmp_path


def names(sources: list[str], root: Path) -> list[str]:
    readers = open_readers(sources)
    assert all(isinstance(reader, TextReader | JsonlReader) for reader in readers)
    return [reader.path.relative_to(root).as_posix() for reader in readers]  # type: ignore[attr-defined]


def test_a_folder_is_read_in_a_fixed_order(folder: Path) -> None:
    assert names([str(folder)], folder) == [
        "H.TXT", "a.md", "b.txt", "f.jsonl", "g.JSONL.GZ", "sub/c.rst", "sub/d.py", "sub/deep/e.txt.gz",
    ]  # fmt: skip


def test_globs(folder: Path) -> None:
    assert names([f"{folder}/*"], folder) == ["H.TXT", "a.md", "b.txt", "f.jsonl", "g.JSONL.GZ"]
    assert names([f"{folder}/**/*.py"], folder) == ["sub/d.py"]


def test_a_file_of_any_ending(folder: Path) -> None:
    assert names([f"{folder}/skip.bin"], folder) == ["skip.bin"]


def test_a_name_with_glob_characters_that_exists(tmp_path: Path) -> None:
    (tmp_path / "[a].txt").write_text("x")
    assert names([f"{tmp_path}/[a].txt"], tmp_path) == ["[a].txt"]


def test_a_file_named_twice_is_read_once(folder: Path) -> None:
    assert names([f"{folder}/b.txt", f"{folder}/sub/../b.txt", f"{folder}/b*"], folder) == ["b.txt"]
    assert len(open_readers(["stdlib", "stdlib", "-", "-", "stdlib:source"])) == 3


def test_endings_choose_the_reader(folder: Path) -> None:
    kinds = {path.name: type(open_readers([str(path)])[0]) for path in folder.glob("*.*") if path.is_file()}
    assert kinds["f.jsonl"] is kinds["g.JSONL.GZ"] is JsonlReader
    assert kinds["b.txt"] is kinds["skip.gz"] is TextReader


def test_special_names() -> None:
    stdin, prose, code = open_readers(["-", "stdlib", "stdlib:source"])
    assert isinstance(stdin, StdinReader)
    assert isinstance(prose, StdlibReader)
    assert isinstance(code, StdlibReader)
    assert (prose.source, code.source) == (False, True)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SOURCE must be given"):
        open_readers([])
    with pytest.raises(UserError, match="SOURCE must not be empty; got ' '"):
        open_readers([" "])
    with pytest.raises(UserError, match=r"SOURCE must name a file, a folder or a glob that exists; got .*gone\.txt"):
        open_readers([f"{tmp_path}/gone.txt"])
    with pytest.raises(UserError, match=r"must be one of stdlib, stdlib:source; got 'stdlib:code'"):
        open_readers(["stdlib:code"])
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a folder with text files; got .*\.txt, \.md, \.rst, \.py, \.jsonl"):
        open_readers([str(tmp_path)])
    with pytest.raises(UserError, match=r"--val-file must name a glob that matches text files; got .*\*\.bin"):
        open_readers([f"{tmp_path}/*.bin"], "--val-file")

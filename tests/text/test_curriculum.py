"""Curricula: weights, order, names, and what is refused."""

from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.text.config import DataConfig
from rhapsode.text.curriculum import curriculum_names, curriculum_summary, load_curriculum
from rhapsode.text.sources import open_readers
from rhapsode.text.split import open_sources


def write(folder: Path, *entries: tuple[str, float]) -> str:
    path = folder / "mine.toml"
    path.write_text("\n".join(f'[[sources]]\nsource = "{source}"\nweight = {weight}' for source, weight in entries))
    return f"curriculum:{path}"


def names(source: str) -> list[str]:
    return [document.name for reader in open_readers([source]) for document in reader.documents()]


def test_sources_come_in_order_as_often_as_they_weigh(tmp_path: Path) -> None:
    for folder, count in (("a", 3), ("b", 400)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            (tmp_path / folder / f"{i:03d}.txt").write_text(f"{folder} {i} and some words")
    found = names(write(tmp_path, (f"{tmp_path}/b", 0.25), (f"{tmp_path}/a", 2.0)))
    thin = [name for name in found if "/b/" in name]
    # a quarter of 400, with a deviation of 9; which ones follows from their names, and so from the folder.
    assert 55 < len(thin) < 145
    assert found == thin + 2 * [f"{tmp_path}/a/{i:03d}.txt" for i in range(3)]
    assert names(write(tmp_path, (f"{tmp_path}/b", 0.25)))[: len(thin)] == thin
    split = open_sources([write(tmp_path, (f"{tmp_path}/a", 2.0), (f"{tmp_path}/b", 1.0))], DataConfig())
    assert sum(split.num_documents.values()) == 406


def test_the_shipped_ones_are_whole() -> None:
    assert len(curriculum_names()) >= 2
    for name in curriculum_names():
        assert load_curriculum(name).sources
        assert curriculum_summary(name).endswith(".")


def test_what_is_no_curriculum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the curriculum must be one of python-code, python-prose; got 'python-prosa'"):
        open_readers(["curriculum:python-prosa"])
    with pytest.raises(UserError, match=r"a curriculum must have at least one \[\[sources\]\] entry; .* is empty"):
        open_readers([write(tmp_path)])
    with pytest.raises(UserError, match=r"a curriculum must not name another; .* names curriculum:python-code"):
        open_readers([write(tmp_path, ("curriculum:python-code", 1.0))])
    (tmp_path / "one.txt").write_text("one document")
    message = r"weight below 1 takes whole documents, and must take one; got 1e-09 of the 1 of .*one\.txt\. Raise it"
    with pytest.raises(UserError, match=message):
        names(write(tmp_path, (f"{tmp_path}/one.txt", 1e-9)))
    assert names(write(tmp_path, (f"{tmp_path}/one.txt", 1 + 1e-9))) == [f"{tmp_path}/one.txt"]
    with pytest.raises(UserError, match=r"curriculum\.sources\.0\.weight must be greater than 0; got 0"):
        open_readers([write(tmp_path, ("stdlib", 0.0))])

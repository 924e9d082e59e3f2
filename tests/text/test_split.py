"""Text is split once, the same way every time, and a text that changes under way is noticed."""

import gzip
import json
import random
from pathlib import Path

import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.text.assignment import PARTS
from rhapsode.text.config import DataConfig
from rhapsode.text.pieces import PIECE_CHARS
from rhapsode.text.readers import Document
from rhapsode.text.split import TextSplit, open_sources, split_documents


def make_texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abc é中\n", k=rng.randrange(1, 400))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    for i, text in enumerate(make_texts(60)):
        (path / f"{i:02}.txt").write_bytes(text.encode())
    return path


def contents(split: TextSplit) -> dict[str, list[str]]:
    return {part: [document.text for document in split.documents(part)] for part in PARTS}


def test_whole_documents_are_assigned(folder: Path) -> None:
    split = open_sources([str(folder)], DataConfig())
    parts = contents(split)
    assert sorted(text for texts in parts.values() for text in texts) == sorted(make_texts(60))
    assert all(parts.values())
    assert split.num_documents == {part: len(texts) for part, texts in parts.items()}
    assert split.num_bytes == {part: len("".join(texts).encode()) for part, texts in parts.items()}
    assert not split.by_position
    assert contents(split) == parts
    assert all(stream.begins and stream.ends for part in PARTS for stream in split.streams(part))
    assert next(split.documents("train")).name.startswith(str(folder))


def test_the_parts_follow_from_the_contents(folder: Path, tmp_path: Path) -> None:
    config = DataConfig()
    parts = contents(open_sources([str(folder)], config))
    path = tmp_path / "same.jsonl"
    texts = random.Random(1).sample(make_texts(60), 60)
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    other = contents(open_sources([str(path)], config))
    assert {part: sorted(texts) for part, texts in parts.items()} == {part: sorted(t) for part, t in other.items()}
    assert parts != contents(open_sources([str(folder)], DataConfig(split_seed=1)))


def test_copies_stay_together() -> None:
    texts = make_texts(40)
    documents = [Document(f"{i}", text) for i, text in enumerate(texts * 3)]
    parts = contents(split_documents(documents, DataConfig(val_split=0.3)))
    for text in texts:
        assert sum(text in part for part in parts.values()) == 1
    assert sum(map(len, parts.values())) == 120


def test_the_hash_knows_contents_and_settings(folder: Path) -> None:
    def data_hash(config: DataConfig) -> str:
        return open_sources([str(folder)], config).data_hash

    hashes = [data_hash(config) for config in (DataConfig(), DataConfig(split_seed=1), DataConfig(val_split=0.2))]
    assert hashes[0] == data_hash(DataConfig())
    (folder / "00.txt").write_text("other")
    assert len({*hashes, data_hash(DataConfig())}) == 4
    assert all(len(value) == 64 for value in hashes)


def test_one_document_is_split_by_position(tmp_path: Path) -> None:
    text = "".join(random.Random(0).choices("abc é中😀\n", k=2_500_000))
    path = tmp_path / "one.txt.gz"
    path.write_bytes(gzip.compress(text.encode(), 1))
    split = open_sources([str(path)], DataConfig())
    assert split.by_position
    ninth, calibration = int(len(text) * 0.9), int(len(text) * 0.02)
    expected = {
        "train": text[calibration:ninth],
        "calibration": text[:calibration],
        "validation": text[ninth:],
    }
    assert contents(split) == {part: [piece] for part, piece in expected.items()}
    assert split.num_bytes == {part: len(piece.encode()) for part, piece in expected.items()}
    assert split.num_documents == dict.fromkeys(PARTS, 1)
    ends = {part: [(s.begins, s.ends) for s in split.streams(part)] for part in PARTS}
    assert ends == {"train": [(False, False)], "calibration": [(True, False)], "validation": [(False, True)]}
    assert open_sources([str(path)], DataConfig(split_seed=5)).data_hash == split.data_hash
    assert max(map(len, split.texts("train"))) <= 2 * PIECE_CHARS
    assert "".join(split.texts("train")) == expected["train"]


@pytest.mark.parametrize("texts", [["a" * 100, "b" * 1000], ["same " * 50] * 5])
def test_fewer_than_three_different_documents_are_split_by_position(texts: list[str]) -> None:
    split = split_documents([Document("x", text) for text in texts], DataConfig())
    parts = contents(split)
    for i, text in enumerate(texts):
        assert parts["calibration"][i] + parts["train"][i] + parts["validation"][i] == text
        assert parts["validation"][i] == text[int(len(text) * 0.9) :]
    assert split.info()["split"] == "by position in each document"


def test_a_file_for_validation(folder: Path, tmp_path: Path) -> None:
    val_file = tmp_path / "val.jsonl"
    shared = make_texts(60)[:2]
    val_file.write_text("\n".join(json.dumps({"text": text}) for text in ["new one", *shared, ""]))
    split = open_sources([str(folder)], DataConfig(val_file=str(val_file)))
    parts = contents(split)
    assert parts["validation"] == ["new one", *shared]
    assert sorted(parts["train"] + parts["calibration"]) == sorted(make_texts(60)[2:])
    assert parts["calibration"]
    assert split.info()["num_left_out"] == 2
    assert split.num_bytes["validation"] == len("".join(parts["validation"]).encode())
    assert split.num_documents["validation"] == 3
    val_file.write_text('{"text": "newer one"}')
    assert open_sources([str(folder)], DataConfig(val_file=str(val_file))).data_hash != split.data_hash


def test_a_file_for_validation_beside_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 10)
    (tmp_path / "v.txt").write_text("val")
    split = open_sources([f"{tmp_path}/a.txt"], DataConfig(val_file=f"{tmp_path}/v.txt"))
    assert contents(split) == {
        "train": [("0123456789" * 10)[2:]],
        "calibration": ["01"],
        "validation": ["val"],
    }
    assert split.num_documents == dict.fromkeys(PARTS, 1)


def test_empty_documents_are_left_out(folder: Path) -> None:
    (folder / "empty.txt").write_text("")
    split = open_sources([str(folder)], DataConfig())
    assert split.info()["num_left_out"] == 1
    assert sum(split.num_documents.values()) == 60


def test_info_is_ready_for_json(folder: Path) -> None:
    info = json.loads(json.dumps(open_sources([str(folder)], DataConfig(split_seed=3)).info()))
    assert info["sources"] == [str(folder)]
    assert (info["val_split"], info["val_file"], info["calibration_split"], info["split_seed"]) == (0.1, None, 0.02, 3)
    assert info["split"] == "by content hash of whole documents"
    assert split_documents([Document("x", "abc" * 9)], DataConfig()).info()["sources"] == ["x"]


def test_too_little_text(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("")
    with pytest.raises(UserError, match="SOURCE must hold text; got only empty documents"):
        open_sources([f"{tmp_path}/e.txt"], DataConfig())
    with pytest.raises(UserError, match="SOURCE must hold text; got only empty documents"):
        split_documents([], DataConfig())
    with pytest.raises(UserError, match=r"SOURCE must hold at least 3 characters in each .*; got 2"):
        split_documents([Document("a", "ab"), Document("b", "abcd")], DataConfig())
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(UserError, match=r"--val-file must hold text; got .*e\.txt, which is empty"):
        open_sources([f"{tmp_path}/a.txt"], DataConfig(val_file=f"{tmp_path}/e.txt"))
    with pytest.raises(UserError, match="--val-file must not be the only text; got a file that holds all the others"):
        open_sources([f"{tmp_path}/a.txt"], DataConfig(val_file=f"{tmp_path}/a.txt"))
    with pytest.raises(UserError, match="--val-file must name a file"):
        split_documents([Document("a", "abc")], DataConfig(val_file=f"{tmp_path}/gone.txt"))


def test_a_text_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) for text in make_texts(10)]
    for changed, message in [
        ([line.replace("a", "b") for line in lines], r"a\.jsonl:\d+ must stay as it is while it is read"),
        (lines[:-1], "SOURCE must stay as it is"),
        ([*lines, lines[0]], r"a\.jsonl:11 must stay as it is"),
    ]:
        path.write_text("\n".join(lines))
        split = open_sources([str(path)], DataConfig())
        path.write_text("\n".join(changed))
        with pytest.raises(StateError, match=message):
            contents(split)
    one = tmp_path / "a.txt"
    one.write_text("abc" * 100)
    split = open_sources([str(one)], DataConfig())
    one.write_text("abd" * 100)
    with pytest.raises(StateError, match=r"a\.txt must stay as it is while it is read, but it has changed"):
        contents(split)

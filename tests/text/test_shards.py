"""What is written comes back, and what was changed on disk is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.text import shards
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.config import DataConfig
from rhapsode.text.prepare import prepare
from rhapsode.text.readers import Document
from rhapsode.text.shards import (
    CheckedWriter,
    TokenArray,
    TokenWriter,
    is_prepared,
    load_corpus,
    load_token_array,
    save_token_array,
)
from rhapsode.text.split import split_documents


def make_tokens(num_ids: int, dtype: type = np.uint16) -> TokenArray:
    rng = np.random.default_rng(0)
    starts = np.unique(rng.integers(0, max(num_ids, 1), 9))[: num_ids or None].astype(np.int64)
    top = int(np.iinfo(dtype).max)
    return TokenArray(rng.integers(0, top, num_ids).astype(dtype), starts if num_ids else starts[:0], 12345)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    documents = [Document(f"{i}", f"document {i} é " * (i + 5)) for i in range(30)]
    prepare(split_documents(documents, DataConfig()), BytesTokenizer(), folder)
    return folder


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("num_ids", [0, 1, 1000])
@pytest.mark.parametrize("verify", [True, False])
def test_a_token_array_comes_back(tmp_path: Path, dtype: type, num_ids: int, verify: bool) -> None:
    tokens = make_tokens(num_ids, dtype)
    save_token_array(tmp_path / "x" / "validation", tokens)
    loaded = load_token_array(tmp_path / "x" / "validation", verify=verify)
    assert np.array_equal(loaded.ids, tokens.ids)
    assert np.array_equal(loaded.doc_starts, tokens.doc_starts)
    assert loaded.num_bytes == 12345
    assert loaded.ids.dtype == dtype
    assert len(loaded) == num_ids
    assert (tmp_path / "x" / "validation" / "ids.bin").stat().st_size == num_ids * np.dtype(dtype).itemsize


def test_ids_stay_on_disk(tmp_path: Path) -> None:
    save_token_array(tmp_path, make_tokens(1000))
    loaded = load_token_array(tmp_path)
    assert type(loaded.ids) is np.ndarray
    assert isinstance(loaded.ids.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded.ids[0] = 1


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_token_array(tmp_path, make_tokens(1000))
    save_token_array(tmp_path, make_tokens(10))
    assert len(load_token_array(tmp_path)) == 10


def test_every_stretch_has_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHECKED_BYTES", 1 << 20)
    tokens = make_tokens(2_000_000)
    with TokenWriter(tmp_path, np.dtype(np.uint16)) as writer:
        for start in range(0, 2_000_000, 300_007):
            part = tokens.ids[start : start + 300_007]
            writer.append(part, np.array([0], dtype=np.int64), len(part))
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert len(meta["files"]["ids.bin"]["sha256"]) == 4
    loaded = load_token_array(tmp_path)
    assert np.array_equal(loaded.ids, tokens.ids)
    assert loaded.doc_starts.tolist() == list(range(0, 2_000_000, 300_007))
    with open(tmp_path / "ids.bin", "r+b") as file:
        file.seek(2_500_000)
        byte = file.read(1)
        file.seek(2_500_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(StateError, match=r"ids\.bin must be as it was written, but it was changed after byte 2097152"):
        load_token_array(tmp_path)


def test_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "ids.bin").symlink_to("/dev/full")
    with pytest.raises(StateError, match=r"ids\.bin must be writable; got: No space left on device\. Free space"):
        save_token_array(tmp_path, make_tokens(1000))
    assert not (tmp_path / "meta.json").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match="file/x must be writable; got: Not a directory"):
        save_token_array(tmp_path / "file" / "x", make_tokens(10))
    with pytest.raises(StateError, match=r"gone/ids\.bin must be writable; got: No such file"):
        CheckedWriter(tmp_path / "gone" / "ids.bin")


def test_a_prepared_folder(prepared: Path) -> None:
    assert is_prepared(prepared)
    corpus = load_corpus(prepared)
    assert corpus.tokenizer.kind == "bytes"
    assert corpus.info["data_hash"] == corpus.data_hash
    assert corpus.info["num_tokens"]["train"] == len(corpus.train)


def test_what_is_not_prepared(prepared: Path, copy: Path, tmp_path: Path) -> None:
    assert not is_prepared(tmp_path / "gone")
    assert not is_prepared(prepared / "train")
    (copy / "meta.json").write_text("{")
    assert not is_prepared(copy)
    (copy / "meta.json").unlink()
    assert not is_prepared(copy)
    with pytest.raises(UserError, match=r"--data must name a prepared folder; got .*copy, which has no meta\.json"):
        load_corpus(copy)
    with pytest.raises(StateError, match=r"train/meta\.json must describe corpus; got 'tokens'"):
        load_corpus(prepared / "train")
    with pytest.raises(StateError, match=r"meta\.json must describe tokens; got 'corpus'"):
        load_token_array(prepared)
    with pytest.raises(StateError, match=r"meta\.json must be readable"):
        load_token_array(tmp_path / "gone")


@pytest.mark.parametrize("name", ["train/ids.bin", "validation/starts.bin", "calibration/ids.bin"])
def test_a_damaged_file_is_named(copy: Path, name: str) -> None:
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    for verify in (True, False):
        with pytest.raises(StateError, match=rf"{name} must have {len(data)} bytes; got {len(data) - 1}"):
            load_corpus(copy, verify=verify)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StateError, match=rf"{name} must be as it was written, but it was changed after byte 0"):
        load_corpus(copy)
    load_corpus(copy, verify=False)
    path.unlink()
    with pytest.raises(StateError, match=rf"{name} must be readable; got: No such file"):
        load_corpus(copy)


def test_a_damaged_description_is_named(copy: Path) -> None:
    part_meta = copy / "train" / "meta.json"
    part_meta.write_bytes(part_meta.read_bytes().replace(b"uint16", b"uint32"))
    with pytest.raises(StateError, match=r"train/meta\.json must be as it was written"):
        load_corpus(copy)
    part_meta.unlink()
    with pytest.raises(StateError, match=r"train/meta\.json must be readable"):
        load_corpus(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "has format version 9, and this rhapsode reads up to 1"),
        ({"parts": None}, r"meta\.json must describe a corpus, but it is damaged"),
        ({"tokenizer": "0" * 64}, r"tokenizer\.json must be as it was written"),
    ],
)
def test_a_changed_corpus_description(copy: Path, change: dict[str, object], message: str) -> None:
    meta = copy / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    with pytest.raises(StateError, match=message):
        load_corpus(copy)


@pytest.mark.parametrize("change", [{"dtype": "int8"}, {"num_ids": "x"}, {"files": {}}, {"files": None}])
def test_a_changed_token_description(copy: Path, change: dict[str, object]) -> None:
    meta = copy / "train" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    with pytest.raises(StateError, match=r"meta\.json must describe tokens, but it is damaged"):
        load_token_array(copy / "train")

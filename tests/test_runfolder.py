"""Files that are whole or absent, locks between processes, and versions that do not fit."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import (
    FORMAT_VERSION,
    RunFolder,
    hash_file,
    read_json,
    sync_folder,
    write_atomic,
    write_json,
)


def test_write_atomic_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"", b"old", os.urandom(100_000), b"new"):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


FULL_DISK = """
import sys
from pathlib import Path
from rhapsode.errors import StateError
from rhapsode.runfolder import write_atomic

folder = Path(sys.argv[1])
path = folder / "file"
write_atomic(path, b"old" * 1000)
for size in (1 << 20, 64 << 10):
    try:
        write_atomic(path, bytes(size))
    except StateError as error:
        print(error)
    else:
        sys.exit("the disk was not full")
assert path.read_bytes() == b"old" * 1000
assert [p.name for p in folder.iterdir()] == ["file"]
write_atomic(path, b"new")
assert path.read_bytes() == b"new"
"""


def test_a_full_disk_keeps_the_old_content(tmp_path: Path) -> None:
    # a real file system of 64 KiB, in a mount namespace that ends with its process.
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=64k rhapsode-test '{tmp_path}'"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs the programs unshare and mount")
    tried = subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this system does not let us mount a small disk: {tried.stderr.strip()}")
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = f"{tmp_path}/file must be writable; got: No space left on device. Free space or choose another folder.\n"
    assert done.stdout == 2 * expected
    assert os.listdir(tmp_path) == []


def test_write_atomic_under_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(StateError, match=r"plain/file must be writable; got: Not a directory\."):
        write_atomic(tmp_path / "plain" / "file", b"data")


def test_write_atomic_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"missing/file must be writable; got: No such file or directory\."):
        write_atomic(tmp_path / "missing" / "file", b"data")


def test_write_atomic_with_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"must be writable; got: File name too long\."):
        write_atomic(tmp_path / ("x" * 255), b"data")


def test_write_atomic_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match=r"folder must be writable; got: Is a directory\."):
        write_atomic(tmp_path / "folder", b"data")
    assert os.listdir(tmp_path) == ["folder"]


def test_sync_folder_wants_a_folder_that_exists(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"text": "café\n\u2028", "numbers": [1, 2.5, None], "nested": {"a": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "café" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff\xfe\xfa", b"\0" * 100, b'{"a": 1}{"b": 2}'])
def test_damaged_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"x\.json must hold JSON, but it is damaged\. Restore it or train again\.$"):
        read_json(path)


def test_other_json_and_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(StateError, match=r"x\.json must hold one JSON object; got list\.$"):
        read_json(path)
    with pytest.raises(StateError, match=r"y\.json must be readable; got: No such file or directory\.$"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_hash_file_is_sha256(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def fill(folder: RunFolder) -> list[Path]:
    """Write something at every place of a run, and return the places."""
    places = []
    for name, place in vars(folder).items():
        if name in {"path", "embedding_request"}:
            continue
        if place.suffix:
            place.write_text("{}")
        else:
            place.mkdir(exist_ok=True)
            (place / "something").write_text("x")
        places.append(place)
    return places


def test_create_overwrite_removes_a_run_and_nothing_else(out: Path) -> None:
    folder = RunFolder(out)
    assert not folder.exists()
    folder.create()
    assert not folder.exists()
    places = fill(folder)
    assert folder.exists()
    assert len(places) == 13
    (out / "mine.txt").write_text("keep")
    with pytest.raises(
        UserError, match=r"^--out must name a folder without a run; got .*run, which has one\. Replace it with --ov"
    ):
        folder.create()
    assert all(place.exists() for place in places)
    folder.create(overwrite=True)
    assert (out / "mine.txt").read_text() == "keep"
    # what was taught stays, and what was read of a teacher, which may be read again.
    assert sorted(os.listdir(out)) == ["capture", "checkpoints", "data", "memory", "mine.txt"]
    assert os.listdir(folder.checkpoints) == os.listdir(folder.data) == []


def test_claim_makes_the_folder_and_touches_nothing_in_it(out: Path) -> None:
    folder = RunFolder(out)
    folder.claim()
    assert os.listdir(out) == []
    folder.create()
    places = fill(folder)
    with pytest.raises(UserError, match=r"^--out must name a folder without a run"):
        folder.claim()
    folder.claim(overwrite=True)
    assert all(place.exists() for place in places)


def test_overwrite_where_there_is_no_run_removes_nothing(out: Path) -> None:
    (out / "data").mkdir(parents=True)
    (out / "data" / "corpus.txt").write_text("mine")
    RunFolder(out).create(overwrite=True)
    assert (out / "data" / "corpus.txt").read_text() == "mine"


def test_a_run_that_died_before_its_first_step_is_none(out: Path) -> None:
    folder = RunFolder(str(out))
    folder.create()
    folder.recipe.write_text("name = 'x'")
    assert not folder.exists()
    folder.create()
    write_json(folder.run, {})
    assert folder.exists()


def test_create_in_a_folder_with_other_files(out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    RunFolder(out).create()
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("overwrite", [False, True])
def test_create_under_or_on_a_regular_file(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(UserError, match=r"^--out must name a writable folder; got .*plain/run: Not a directory\.$"):
        RunFolder(tmp_path / "plain" / "run").create(overwrite=overwrite)
    with pytest.raises(UserError, match=r"^--out must name a writable folder; got .*plain: File exists\.$"):
        RunFolder(tmp_path / "plain").create(overwrite=overwrite)
    assert (tmp_path / "plain").read_text() == "x"


def test_open_wants_a_run(out: Path, tmp_path: Path) -> None:
    message = (
        r"^RUN must name the folder of a run; got .*, which has no run\.json\. Make one with: rhapsode train SOURCE"
    )
    with pytest.raises(UserError, match=message):
        RunFolder(out).open()
    RunFolder(out).create()
    with pytest.raises(UserError, match=message):
        RunFolder(out).open()
    (tmp_path / "plain").write_text("x")
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path / "plain").open()


def test_open_reads_this_version_and_refuses_newer_ones(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    write_json(folder.run, {"format_version": FORMAT_VERSION})
    assert folder.open() is folder
    for version in (FORMAT_VERSION + 1, "1", None, 1.5):
        write_json(folder.run, {"format_version": version})
        with pytest.raises(
            StateError, match=r"run\.json has format version .*reads up to 1\. Install a newer rhapsode\.$"
        ):
            folder.open()


def test_open_a_damaged_run(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    write_json(folder.run, {"format_version": FORMAT_VERSION})
    whole = folder.run.read_bytes()
    folder.run.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StateError, match=r"run\.json must hold JSON, but it is damaged"):
        folder.open()


HOLD = """
import sys
from rhapsode.runfolder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_lock_is_held_between_processes(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        in_use = r"run is in use by another training\. Wait .* choose another --out\.$"
        with pytest.raises(StateError, match=in_use), folder.lock():
            pytest.fail("two held the lock")
        # a process that dies gives its lock back.
        other.kill()
    with folder.lock():
        again = subprocess.run(
            [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert "StateError" in again.stderr
        assert "is in use by another training" in again.stderr
    with folder.lock():
        pass


def test_the_lock_is_given_back_after_an_error(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    with pytest.raises(KeyError, match="inside"), folder.lock():
        raise KeyError("inside")
    with folder.lock():
        pass


def test_lock_in_a_folder_that_cannot_have_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    message = r"plain/run must be writable; got: Not a directory\. Choose another --out\.$"
    with pytest.raises(StateError, match=message), RunFolder(tmp_path / "plain" / "run").lock():
        pytest.fail("locked nothing")

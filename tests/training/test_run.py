"""A whole training: what it writes, what it refuses, and that a refusal costs nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rhapsode import api
from rhapsode.config import build_config, read_toml
from rhapsode.errors import RhapsodeError, StateError, UserError
from rhapsode.runfolder import RunFolder, read_json
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.text.prepare import prepare
from rhapsode.text.split import open_sources
from rhapsode.text.tokenizer import load_tokenizer, train_tokenizer
from rhapsode.training.checkpoint import latest_checkpoint
from rhapsode.training.config import Recipe, recipe_names
from rhapsode.training.run import Observer
from tiny_runs import fingerprint, make_words, sha256, tiny_settings, train_tiny, write_texts


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; copy it before changing it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(source, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_shipped_recipe_trains(source: Path, out: Path, recipe: str) -> None:
    result = train_tiny(source, out, recipe=recipe, settings={"training": {"steps": 2}})
    assert result.steps == 2
    assert 54_000 <= result.parameters <= 60_000
    stored = load_file(out / "model.safetensors")
    # what is kept to recognise a model by, such as the seed of its keys, is not trained.
    trained = [name for name in stored if not name.endswith("key_seed")]
    assert sum(stored[name].numel() for name in trained) == result.parameters
    assert all(tensor.isfinite().all() for tensor in load_file(out / "model.safetensors").values())


def test_what_a_run_leaves(source: Path, finished: Path) -> None:
    folder = RunFolder(finished)
    assert sorted(os.listdir(finished)) == [
        ".lock",
        "checkpoints",
        "data",
        "encoder",
        "loss.png",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.toml",
        "run.json",
        "tokenizer.json",
    ]
    header = read_json(folder.run)
    assert header["status"] == "done"
    assert header["weights_sha256"] == sha256(folder.model)
    assert header["hardware"]["threads"] == 1
    assert header["hardware"]["precision"] == "float32"
    assert header["versions"]["torch"] == torch.__version__
    assert header["parameters"] == header["results"]["parameters"]
    recipe = build_config(Recipe, read_toml(folder.recipe))
    assert None not in (recipe.model.width, recipe.model.num_layers, recipe.model.num_heads, recipe.model.vocab_size)
    assert folder.loss_picture.read_bytes().startswith(b"\x89PNG")
    # no weights file says anything but weights, or two equal runs would differ.
    data = folder.model.read_bytes()
    assert "__metadata__" not in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    with open(folder.model, "rb") as file:
        assert b"pickle" not in file.read(4096)


def test_the_results_are_those_of_the_best_weights(finished: Path) -> None:
    results = read_json(RunFolder(finished).run)["results"]
    low, high = results["interval"]
    assert low < results["val_bits_per_byte"] < high
    assert results["kneser_ney_bits_per_byte"] < results["unigram_bits_per_byte"] < 8
    assert (results["steps"], results["tokens"], results["ended"]) == (10, 640, "budget")
    again = api.load(finished).evaluate()
    assert again.bits_per_byte == results["val_bits_per_byte"]
    assert again.interval == results["interval"]


def test_ten_steps_from_two_seeds_differ(source: Path, tmp_path: Path, finished: Path) -> None:
    train_tiny(source, tmp_path / "other", settings={"training": {"seed": 1}})
    assert fingerprint(tmp_path / "other")["weights"] != fingerprint(finished)["weights"]


# --- what a resume refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"learning_rate": 0.5}}, r"training\.learning_rate was [0-9.]+ and is now 0\.5"),
        ({"training": {"threads": 2}}, r"training\.threads was 1 and is now 2"),
        ({"training": {"precision": "bfloat16"}}, r"training\.precision was 'float32' and is now 'bfloat16'"),
        ({"training": {"steps": 20}}, r"training\.steps was 10 and is now 20"),
        ({"training": {"compile": "on"}}, r"training\.compile was 'off' and is now 'on'"),
        ({"tokenizer": {"kind": "chars"}}, r"tokenizer\.kind was 'bytes' and is now 'chars'"),
        ({"model": {"seq_len": 8}}, r"model\.seq_len was 16 and is now 8"),
        ({"params": 70_000}, r"params was 60000 and is now 70000"),
        ({"data": {"split_seed": 3}}, r"data\.split_seed was 0 and is now 3"),
    ],
    ids=str,
)
def test_a_resume_with_another_recipe_names_the_setting(
    source: Path, run: Path, settings: dict[str, Any], message: str
) -> None:
    before = contents(run)
    with pytest.raises(StateError, match=rf"^resume must repeat the recipe; {message}\. Repeat it, or train again"):
        train_tiny(source, run, resume=True, settings=settings)
    assert contents(run) == before


def test_a_resume_from_something_else_names_it(source: Path, run: Path, tmp_path: Path) -> None:
    before = contents(run)
    with pytest.raises(StateError, match=r"^resume must repeat the recipe; name was 'rhapsode' and is now 'gpt'\."):
        train_tiny(source, run, resume=True, recipe="gpt")
    with pytest.raises(
        StateError, match=r"^resume must repeat how the run began; tokenizer was None and is now '.*tok"
    ):
        train_tiny(source, run, resume=True, tokenizer=run / "tokenizer.json")
    with pytest.raises(StateError, match=r"^resume must repeat how the run began; init was None and is now '.*other'"):
        train_tiny(source, run, resume=True, init=tmp_path / "other")
    other = write_texts(tmp_path / "texts", 3)
    with pytest.raises(StateError, match=r"^resume must repeat how the run began; sources was \["):
        train_tiny(other, run, resume=True)
    assert contents(run) == before


def test_a_resume_finds_the_text_it_began_with(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 4)
    train_tiny(texts, tmp_path / "run", settings={"training": {"steps": 1}})
    (texts / "0.txt").write_text("another text " * 100)
    with pytest.raises(StateError, match=r"^resume must find the text the run began with; it has changed"):
        api.train([], out=tmp_path / "run", resume=True)


def test_a_resume_finds_the_tokenizer_it_began_with(run: Path) -> None:
    train_tokenizer(["é" * 300], TokenizerConfig(kind="chars")).save(run / "tokenizer.json")
    with pytest.raises(StateError, match=r"tokenizer\.json must be the tokenizer the run began with; it has changed"):
        api.train([], out=run, resume=True)


def test_a_resume_on_other_hardware_is_refused(source: Path, run: Path) -> None:
    # a run that left the number of threads to a machine with another number of cores.
    header = read_json(RunFolder(run).run)
    header["hardware"]["threads"] = 64
    RunFolder(run).run.write_text(json.dumps(header))
    with pytest.raises(StateError, match=r"^resume must be exact, and training\.threads was 64 and is now 1\. Repeat"):
        api.train([], out=run, resume=True)


@pytest.mark.parametrize("damage", ["tensors cut short", "tensors changed", "tensors gone", "header foreign"])
def test_a_resume_from_a_damaged_checkpoint_is_refused(run: Path, damage: str) -> None:
    header = latest_checkpoint(RunFolder(run))
    assert header is not None
    tensors = header.with_suffix(".safetensors")
    data = tensors.read_bytes()
    if damage == "tensors cut short":
        tensors.write_bytes(data[: len(data) // 2])
    elif damage == "tensors changed":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "tensors gone":
        tensors.unlink()
    else:
        header.write_text('{"epoch": 3}')
    with pytest.raises(StateError, match=r"step-00000010\.(safetensors|json) must (match|be)"):
        api.train([], out=run, resume=True)


# --- what a refusal costs: nothing -------------------------------------------------------------------------------


def refuse(source: Path | str, run: Path, kind: type[RhapsodeError], message: str, **request: Any) -> None:
    """Check that a training is refused and leaves the run as it was."""
    before = contents(run)
    settings = tiny_settings(steps=2)
    for section, values in request.pop("settings", {}).items():
        settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(kind, match=message):
        api.train(str(source), out=run, settings=settings, **request)
    assert contents(run) == before


def test_a_run_is_replaced_only_when_asked(source: Path, run: Path) -> None:
    refuse(source, run, UserError, r"^--out must name a folder without a run; got .*Replace it with --overwrite, or")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"params": 5000}, r"^--params must be at least \d+ for this recipe"),
        ({"model": {"seq_len": 100_000}}, r"^--seq-len must leave room for one window"),
        ({"data": {"val_file": "/nowhere.txt"}}, r"^--val-file must name a file"),
        ({"training": {"device": "abacus"}}, r"^training\.device must name a device of this machine; got 'abacus'"),
    ],
    ids=["params", "seq_len", "val_file", "device"],
)
def test_overwrite_removes_nothing_before_everything_is_right(
    source: Path, run: Path, settings: dict[str, Any], message: str
) -> None:
    refuse(source, run, UserError, message, overwrite=True, settings=settings)


def test_overwrite_with_a_source_or_a_tokenizer_that_is_missing(source: Path, run: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", run, UserError, "^SOURCE must name a file, a folder or a glob", overwrite=True)
    refuse(source, run, StateError, r"nowhere\.json must be readable", overwrite=True, tokenizer="/nowhere.json")
    refuse(source, run, UserError, "^RUN must name the folder of a run", overwrite=True, init=tmp_path / "nowhere")
    refuse(source, run, UserError, "^--init must name another run than --out", overwrite=True, init=run)


def test_a_run_in_training_is_left_alone(source: Path, run: Path) -> None:
    with RunFolder(run).lock():
        for flags in ({"overwrite": True}, {"resume": True}):
            refuse(source, run, StateError, "is in use by another training. Wait for it to end or choose", **flags)


def test_overwrite_keeps_foreign_files(source: Path, run: Path, finished: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "plots").mkdir()
    (run / "plots" / "a.svg").write_text("mine too")
    (run / "data" / "stale").write_text("of the old run")
    train_tiny(source, run, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "plots" / "a.svg").read_text() == "mine too"
    assert not (run / "data" / "stale").exists()
    assert fingerprint(run) == fingerprint(finished)


def test_text_that_is_too_short_leaves_no_run(tmp_path: Path, out: Path) -> None:
    (tmp_path / "short.txt").write_text("0123456789")
    with pytest.raises(UserError, match=r"^--seq-len must leave room for one window of 17 tokens; got seq_len 16"):
        train_tiny(tmp_path / "short.txt", out)
    assert not RunFolder(out).exists()


def test_too_little_text_to_measure_on_is_refused_at_once(source: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "val.txt").write_text("x")
    with pytest.raises(UserError, match=r"^--val-file must hold at least 2 tokens of text to measure on; got 1\. Give"):
        train_tiny(source, out, settings={"data": {"val_file": str(tmp_path / "val.txt")}})
    (tmp_path / "one.txt").write_text("0123456789" * 5)
    with pytest.raises(UserError, match=r"^--val-split must leave at least 2 tokens of text to measure on; got 0\. Gi"):
        train_tiny(tmp_path / "one.txt", out, settings={"data": {"val_split": 0.01}})
    assert not RunFolder(out).exists()


# --- other beginnings --------------------------------------------------------------------------------------------


def test_init_goes_on_with_tokenizer_and_weights(source: Path, tmp_path: Path) -> None:
    first = train_tiny(source, tmp_path / "first", settings={"tokenizer": {"kind": "chars"}, "params": 62_000})
    other = write_texts(tmp_path / "texts", 4, words=300)
    settings = {"training": {"learning_rate": 1e-12, "weight_decay": 0.0, "steps": 1}}
    said: list[str] = []
    second = train_tiny(other, tmp_path / "second", init=first.run, settings=settings, observer=Observer(said.append))
    assert (tmp_path / "second" / "tokenizer.json").read_bytes() == (tmp_path / "first" / "tokenizer.json").read_bytes()
    assert second.parameters == first.parameters
    # the plan is of the model that is trained, whatever --params says.
    assert any(line.startswith(f"{first.parameters:,} parameters: ") for line in said)
    assert read_json(tmp_path / "second" / "run.json")["parameters"] == first.parameters
    before, after = (
        load_file(tmp_path / "first" / "model.safetensors"),
        load_file(tmp_path / "second/model.safetensors"),
    )
    assert before.keys() == after.keys()
    for name in before:
        # one step at a rate of nothing: the weights are those of the first run.
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_init_survives_a_crash_before_the_first_checkpoint(source: Path, tmp_path: Path, finished: Path) -> None:
    request: dict[str, Any] = {"init": finished, "settings": {"training": {"steps": 3}}}
    train_tiny(source, tmp_path / "whole", **request)
    train_tiny(source, tmp_path / "crashed", **request)
    # what kill -9 before the first checkpoint leaves.
    for path in (tmp_path / "crashed" / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "crashed" / "model.safetensors").unlink()
    api.train([], out=tmp_path / "crashed", resume=True)
    assert fingerprint(tmp_path / "crashed") == fingerprint(tmp_path / "whole")


def test_init_refuses_what_does_not_fit(source: Path, run: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--tokenizer must not be given with --init, which brings its own"):
        train_tiny(source, tmp_path / "new", init=run, tokenizer=run / "tokenizer.json")
    (run / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(StateError, match=r"model\.safetensors must match the checksum in run\.json"):
        train_tiny(source, tmp_path / "new", init=run)


def test_a_prepared_folder_trains_the_same(source: Path, tmp_path: Path, finished: Path) -> None:
    split = open_sources([str(source)], DataConfig())
    prepare(split, load_tokenizer(finished / "tokenizer.json"), tmp_path / "shards")
    train_tiny(tmp_path / "shards", tmp_path / "run")
    assert sha256(tmp_path / "run" / "model.safetensors") == sha256(finished / "model.safetensors")
    with pytest.raises(UserError, match=r"^--val-split, --val-file and --split-seed must not be given with a prepared"):
        train_tiny(tmp_path / "shards", tmp_path / "other", settings={"data": {"split_seed": 1}})
    with pytest.raises(UserError, match=r"^SOURCE must be one prepared folder or text; got .* and 1 more"):
        api.train([str(tmp_path / "shards"), str(source)], out=tmp_path / "other", settings=tiny_settings(steps=1))
    train_tokenizer([make_words(50)], TokenizerConfig(kind="chars")).save(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"^--tokenizer must be the one the shards were made with; it is another"):
        train_tiny(tmp_path / "shards", tmp_path / "other", tokenizer=tmp_path / "other.json")


def test_a_given_tokenizer_is_used_and_fits_its_cap(source: Path, tmp_path: Path) -> None:
    chars = train_tokenizer([make_words(100)], TokenizerConfig(kind="chars"))
    chars.save(tmp_path / "chars.json")
    settings = {"params": 62_000, "training": {"steps": 1}}
    result = train_tiny(source, tmp_path / "run", tokenizer=tmp_path / "chars.json", settings=settings)
    assert result.vocab_size == chars.vocab_size == 260
    capped = {**settings, "tokenizer": {"max_vocab_size": 259}}
    with pytest.raises(UserError, match=r"^tokenizer\.max_vocab_size must be at least .*; got 259 and 260 ids"):
        train_tiny(source, tmp_path / "other", tokenizer=tmp_path / "chars.json", settings=capped)


# --- a full disk -------------------------------------------------------------------------------------------------

FULL_DISK = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rhapsode import api
from rhapsode.errors import StateError
from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import latest_checkpoint
from rhapsode.training.run import Observer

source, out, settings = sys.argv[1], Path(sys.argv[2]) / "run", json.loads(sys.argv[3])
filler = out.parent / "filler"

def fill(line):
    # after the checkpoint of step 4 there is room for part of another, or for nothing at all.
    if line.step == 5:
        room = os.statvfs(out).f_bavail * os.statvfs(out).f_frsize
        filler.write_bytes(bytes(room - int(sys.argv[4])))

try:
    api.train(source, out=out, settings=settings, observer=Observer(report=fill))
except StateError as error:
    print(error)
else:
    sys.exit("the disk was not full")
assert latest_checkpoint(RunFolder(out)).stem == "step-00000004"
assert not [p for p in out.rglob("*.tmp")]
filler.unlink()
print(api.train([], out=out, resume=True).steps)
print(json.dumps({"weights": (out / "model.safetensors").read_bytes().hex()}))
"""


@pytest.mark.parametrize("room", [200_000, pytest.param(0, marks=pytest.mark.slow)])
def test_a_full_disk_costs_no_checkpoint(source: Path, tmp_path: Path, room: int) -> None:
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs the programs unshare and mount")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace")
    # a real file system, in a namespace that ends with its process.
    small = tmp_path / "small"
    small.mkdir()
    settings = tiny_settings(steps=8, save_every=2, eval_every=4)
    mount = f"mount -t tmpfs -o size=4m rhapsode-test '{small}' && exec \"$@\""
    command = [sys.executable, "-c", FULL_DISK, str(source), str(small), json.dumps(settings), str(room)]
    done = subprocess.run(
        [*namespace, "sh", "-c", mount, "sh", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    message, steps, weights = done.stdout.splitlines()
    assert re.search(
        r"(step-00000006\.safetensors|metrics\.jsonl) must be writable; got: No space left on dev", message
    )
    assert steps == "8"
    train_tiny(source, tmp_path / "whole", settings=settings)
    assert json.loads(weights)["weights"] == (tmp_path / "whole" / "model.safetensors").read_bytes().hex()

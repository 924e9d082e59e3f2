"""Whatever is wrong is one sentence on standard error and an exit code; nothing is lost."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhapsode.runfolder import RunFolder
from rhapsode.training.checkpoint import latest_checkpoint
from tiny_runs import FLAGS, make_words

from .conftest import Command

TRAIN = ["--steps", "2", *FLAGS]


@pytest.fixture
def refused(command: Command, out: Path) -> "Refused":
    return Refused(command, out)


class Refused:
    """Runs a command line that must fail, and checks what every failure has in common."""

    def __init__(self, command: Command, out: Path) -> None:
        self._command = command
        self._out = out

    def __call__(self, code: int, message: str, *words: str | Path | int) -> None:
        done = self._command(*words)
        assert done.code == code, done
        assert done.out == ""
        assert "Traceback" not in done.err
        # sentences of progress may come first; the error is the last, and one line.
        last = done.err.splitlines()[-1]
        assert re.search(rf"^rhapsode: {message}", last), last
        # a sentence, or a command to copy.
        assert last.endswith((".", "?")) or ": rhapsode " in last, last
        assert not RunFolder(self._out).exists()

    def train(self, code: int, message: str, *words: str | Path | int) -> None:
        """The same for a training into a folder that must not become a run."""
        self(code, message, "train", *words, "--out", self._out)


def test_sources(refused: Refused, tmp_path: Path, source: Path) -> None:
    refused.train(
        2, r"SOURCE must name a file, a folder or a glob that exists; got .*nowhere", tmp_path / "nowhere", *TRAIN
    )
    refused.train(2, r"SOURCE must not be empty; got ''", "", *TRAIN)
    refused.train(2, r"SOURCE must name some text: a file, a folder, a glob, - or stdlib", *TRAIN)
    (tmp_path / "empty.txt").write_text("")
    refused.train(2, r"SOURCE must hold text; got only empty documents", tmp_path / "empty.txt", *TRAIN)
    (tmp_path / "folder").mkdir()
    refused.train(
        2, r"SOURCE must name a folder with text files; got .*folder\. Files that end in", tmp_path / "folder"
    )
    refused.train(2, r"SOURCE must name a glob that matches text files; got ", f"{tmp_path}/*.rst", *TRAIN)
    refused.train(2, r"SOURCE must be one of stdlib, stdlib:source; got 'stdlib:sources'\. Did you", "stdlib:sources")
    (tmp_path / "short.txt").write_text(make_words(3))
    refused.train(
        2,
        r"--seq-len must leave room for one window of 65 tokens; got seq_len 64 and \d+ tokens",
        tmp_path / "short.txt",
        *TRAIN,
        "--seq-len",
        "64",
    )


def test_files_that_are_no_text_are_named_with_the_byte(refused: Refused, tmp_path: Path) -> None:
    good = make_words(100).encode()
    (tmp_path / "binary.txt").write_bytes(good + b"\x00more")
    refused.train(
        2, rf".*binary\.txt must be text; got a binary file \(a NUL at byte {len(good)}\)", tmp_path / "binary.txt"
    )
    (tmp_path / "latin.txt").write_bytes(good + "é".encode("latin-1") + good)
    refused.train(
        2, rf".*latin\.txt must be UTF-8 text; got an invalid byte at byte {len(good)}\.", tmp_path / "latin.txt"
    )
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(good)[:-6])
    refused.train(2, r".*cut\.txt\.gz must be a whole gzip file; got: ", tmp_path / "cut.txt.gz")
    (tmp_path / "lines.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    refused.train(2, r'.*lines\.jsonl, line 2, must have a string under "text"', tmp_path / "lines.jsonl")


def test_names_get_the_nearest(refused: Refused, source: Path) -> None:
    refused.train(2, r"--recipe must be one of gpt, .*; got 'gtp'\. Did you mean 'gpt'\?", source, "--recipe", "gtp")
    for setting, known in (
        ("model.embed=tabel", "table"),
        ("model.mix='slidng attention'", "sliding"),
        ("model.predict=teid", "tied"),
        ("model.feed_forward=gleu", "gelu"),
        ("tokenizer.kind=byts", "bytes"),
    ):
        name = setting.partition("=")[0]
        refused.train(2, rf"{name} must be one of .*Did you mean '{known}'\?", source, "--set", setting)
    refused.train(
        2, r"the setting model\.widht must be one of .*Did you mean 'width'\?", source, "--set", "model.widht=1"
    )
    refused.train(2, r"the setting optimiser must be one of", source, "--set", "optimiser=muon")
    refused.train(2, r"--set must look like section\.name=value; got 'model\.width'", source, "--set", "model.width")
    refused.train(
        2, r"training\.optimizer must be 'muon' or 'adamw'; got 'sgd'", source, "--set", "training.optimizer=sgd"
    )
    refused(
        2, r"--suite must be one of .*perplexity.*; got 'perplexty'\. Did you", "eval", "RUN", "--suite", "perplexty"
    )
    refused(2, r"KIND must be one of .*; got 'mixer'\. Did you mean 'mixers'\?", "list", "mixer")


def test_unknown_commands_and_options(refused: Refused, source: Path) -> None:
    refused(2, r"No such command 'trian'", "trian")
    refused(2, r"No such option: --stepz", "train", source, "--stepz", "3")
    refused(2, r"Invalid value for '--steps': .*valid int", "train", source, "--steps", "many")
    refused(2, r"Missing argument 'RUN'", "info")


def test_sizes(refused: Refused, source: Path) -> None:
    refused.train(
        2,
        r"--params must be at least \d+ for this recipe and a vocabulary of 259; got 10000\.",
        source,
        *TRAIN,
        "--params",
        "10k",
    )
    for params in ("-5M", "0", "many", "5MB", "1e6"):
        refused.train(
            2, rf"--params must be a positive count such as 300k, 5M or 1\.5B; got {params}", source, "--params", params
        )
    refused.train(2, r"--tokens must be a positive count such as", source, "--tokens", "-3")
    refused.train(2, r"training\.steps must be greater than or equal to 1; got 0", source, "--steps", "0")
    refused.train(2, r"training\.minutes must be greater than 0; got -1", source, "--minutes", "-1")
    refused.train(2, r"model\.seq_len must be greater than or equal to 2; got 1", source, "--seq-len", "1")
    refused.train(2, r"tokenizer\.max_vocab_size must be at least 259", source, "--max-vocab-size", "100")
    refused.train(
        2,
        r"model\.num_heads must divide model\.width into heads of even size; got 6 and 256\. Try 8\.",
        source,
        "--set",
        "model.width=256",
        "--set",
        "model.num_heads=6",
    )


def test_what_excludes_each_other(refused: Refused, source: Path, tmp_path: Path, finished: Path) -> None:
    (tmp_path / "v.txt").write_text("validate on this")
    refused.train(
        2,
        r"--val-split and --val-file must not be given together; got 0\.1 and .*v\.txt\. Leave one",
        source,
        "--val-split",
        "0.1",
        "--val-file",
        tmp_path / "v.txt",
    )
    refused.train(2, r"training must have one budget; got minutes and steps", source, "--minutes", "1", "--steps", "3")
    refused.train(2, r"--resume and --overwrite must not be given together", source, "--resume", "--overwrite")
    refused.train(
        2,
        r"--tokenizer must not be given with --init",
        source,
        "--init",
        finished,
        "--tokenizer",
        finished / "tokenizer.json",
    )
    refused(2, r"--out must name the folder of the new run", "train", source)
    refused(
        2, r"--prompt and --input must not be given together", "generate", finished, "--prompt", "a", "--input", "b"
    )
    refused(2, r"--output must come with --input", "generate", finished, "--prompt", "a", "--output", "b")


def test_folders_that_cannot_be_written(refused: Refused, source: Path, tmp_path: Path, finished: Path) -> None:
    (tmp_path / "plain").write_text("x")
    message = r"--out must name a writable folder; got .*plain/run: Not a directory"
    refused(2, message, "train", source, "--out", tmp_path / "plain" / "run", *TRAIN)
    refused(2, message, "train", source, "--out", tmp_path / "plain" / "run", *TRAIN, "--resume")
    refused(2, message, "prepare", source, "--out", tmp_path / "plain" / "run")
    refused(
        2,
        r"--out must name a file in a folder that can be written; got .*plain/t\.json\. Choose another",
        "tokenizer",
        "train",
        source,
        "--kind",
        "bytes",
        "--out",
        tmp_path / "plain" / "t.json",
    )
    (tmp_path / "prompts.txt").write_text("a\n")
    refused(
        1,
        r"--output must be writable; got .*plain/o: Not a directory",
        "generate",
        finished,
        "--input",
        tmp_path / "prompts.txt",
        "--output",
        tmp_path / "plain" / "o",
    )
    assert (tmp_path / "plain").read_text() == "x"


def test_runs_that_are_there_or_not(command: Command, source: Path, finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    refused = Refused(command, tmp_path / "none")
    refused(
        2,
        r"--out must name a folder without a run; got .*Replace it with --overwrite, or go on with",
        "train",
        source,
        "--out",
        copy,
        *TRAIN,
    )
    refused(
        1,
        r"resume must repeat the recipe; params was 60000 and is now 70000\. Repeat it, or train again",
        "train",
        source,
        "--out",
        copy,
        "--resume",
        "--params",
        "70k",
    )
    refused(
        1,
        r"resume must repeat the recipe; training\.learning_rate was .* and is now 0\.5",
        "train",
        "--out",
        copy,
        "--resume",
        "--learning-rate",
        "0.5",
    )
    for words in (["info"], ["generate", "--prompt", "a"], ["eval"], ["chat"]):
        refused(
            2,
            r"RUN must name the folder of a run; got .*none, which has no run\.json\. Make one with",
            words[0],
            tmp_path / "none",
            *words[1:],
        )
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_damage(command: Command, finished: Path, tmp_path: Path) -> None:
    refused = Refused(command, tmp_path / "none")

    def damaged(name: str, data: bytes | None = None) -> Path:
        copy = tmp_path / f"{name}-{len(os.listdir(tmp_path))}"
        shutil.copytree(finished, copy)
        checkpoint = latest_checkpoint(RunFolder(copy))
        assert checkpoint is not None
        path = checkpoint.with_suffix(".safetensors") if name == "checkpoint" else copy / name
        path.write_bytes(path.read_bytes()[:100] if data is None else data)
        return copy

    refused(
        1,
        r".*step-00000010\.safetensors must match the checksum in step-00000010\.json; it was damaged",
        "train",
        "--resume",
        "--out",
        damaged("checkpoint"),
    )
    for words in (["info"], ["eval"], ["generate", "--prompt", "a"]):
        refused(1, r".*model\.safetensors must match the checksum", words[0], damaged("model.safetensors"), *words[1:])
    refused(1, r".*run\.json must hold JSON, but it is damaged", "info", damaged("run.json"))
    refused(1, r".*run\.json must hold JSON, but it is damaged", "train", "--resume", "--out", damaged("run.json"))
    refused(1, r".*run\.json has format version None", "info", damaged("run.json", b"{}"))
    refused(
        1,
        r".*run\.json has format version 99, and this rhapsode reads up to \d+\. Install a newer",
        "info",
        damaged("run.json", b'{"format_version": 99}'),
    )
    refused(1, r".*tokenizer\.json must hold", "info", damaged("tokenizer.json"))


def test_a_file_of_prompts(refused: Refused, finished: Path, tmp_path: Path) -> None:
    refused(2, r"--input must be a readable file; got .*nowhere", "generate", finished, "--input", tmp_path / "nowhere")
    (tmp_path / "empty").write_text("")
    refused(
        2, r"--input must hold at least one prompt; got .*empty", "generate", finished, "--input", tmp_path / "empty"
    )
    (tmp_path / "bytes").write_bytes(b"abc\n\xff")
    refused(
        2, r"--input must be UTF-8 text; .*bytes is not, at byte 4", "generate", finished, "--input", tmp_path / "bytes"
    )
    for number, line in enumerate(("nothing", "[1]", '{"text": "a"}', "3")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text('{"prompt": "a"}\n' + line + "\n")
        refused(
            2,
            r"--input must hold JSON objects with a prompt; .*\.jsonl line 2 is not",
            "generate",
            finished,
            "--input",
            path,
            "--output",
            tmp_path / "never",
        )
    assert not (tmp_path / "never").exists()


def test_settings_of_generation(refused: Refused, finished: Path) -> None:
    for words, message in (
        (["--temperature", "-1"], r"generation\.temperature must be greater than or equal to 0; got -1"),
        (["--temperature", "1e-9"], r"generation\.temperature must be 0 or at least 0\.0001; got 1e-09"),
        (["--max-new-tokens", "0"], r"generation\.max_new_tokens must be greater than or equal to 1; got 0"),
        (["--top-p", "0"], r"generation\.top_p must be greater than 0; got 0"),
        (["--stop", ""], r"generation\.stop must hold strings of at least one character"),
        (["--seed", "-1"], r"generation\.seed must be greater than or equal to 0; got -1"),
    ):
        refused(2, message, "generate", finished, "--prompt", "a", *words)
    refused(
        2,
        r"the prompt must fit the model's context of 16 tokens; got 41 tokens\. Shorten it, or keep",
        "generate",
        finished,
        "--prompt",
        "x" * 40,
    )
    refused(2, r"--prompt must be given, or --input with a file of prompts", "generate", finished, "--json")


def test_debug_shows_the_traceback(command: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^RUN must name the folder of a run"):
        command("info", tmp_path / "none", "--debug")


HELP = """
import sys
sys.argv = ["rhapsode", *sys.argv[1:]]
from rhapsode.cli import main
try:
    main()
except SystemExit as end:
    heavy = sorted({"torch", "numpy", "matplotlib", "tokenizers"} & set(sys.modules))
    print("imported:", *heavy)
    sys.exit(end.code)
"""


def test_help_imports_nothing_heavy() -> None:
    commands = [
        [],
        ["train"],
        ["generate"],
        ["chat"],
        ["eval"],
        ["info"],
        ["check"],
        ["prepare"],
        ["list"],
        ["tokenizer"],
    ]
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", HELP, *words, "--help"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        *text, imported = done.stdout.splitlines()
        assert imported == "imported:"
        assert text[0].strip().startswith("Usage: rhapsode"), text[:2]
        assert len(text) > 5


def test_the_program_itself_fails_as_the_function_does(tmp_path: Path) -> None:
    words = ["info", str(tmp_path / "none"), "--json"]
    done = subprocess.run([sys.executable, "-m", "rhapsode", *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rhapsode: RUN must name the folder of a run; got ")
    assert done.stderr.count("\n") == 1


def test_whoever_stops_reading_ends_the_command(finished: Path) -> None:
    words = [sys.executable, "-m", "rhapsode", "generate", str(finished), "--prompt", "a", "--max-new-tokens", "100000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert stderr == b""


def test_json_of_every_command_that_needs_no_run(command: Command, source: Path, tmp_path: Path) -> None:
    for words in (
        ["list"],
        ["check", source, *TRAIN],
        ["tokenizer", "train", source, "--kind", "bytes", "--out", tmp_path / "t.json"],
        ["tokenizer", "stats", tmp_path / "t.json", source],
        ["prepare", source, "--tokenizer", tmp_path / "t.json", "--out", tmp_path / "shards"],
    ):
        done = command(*words, "--json")
        assert done.code == 0, done.err
        assert isinstance(json.loads(done.out.splitlines()[-1]), dict)

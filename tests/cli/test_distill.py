"""rhapsode distill, and the commands that use its runs."""

import json
from pathlib import Path

from .conftest import Command

FLAGS = ["--dim", 64, "--window", 3, "--units", 32, "--steps", 6, "--set", "model.field.num_active=8"]
FLAGS += ["--set", "model.field.rank=8", "--set", "model.stage1_dim=16", "--set", "training.batch_size=128"]
FLAGS += ["--set", "training.threads=1", "--set", "training.seed_positions=128"]


def test_it_distils_and_its_run_is_a_run(command: Command, finished: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "field"
    done = command("distill", finished, "--data", source, "--out", out, *FLAGS, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    keys = {"bits_per_byte", "teacher_bits_per_byte", "unigram_bits_per_byte", "kl", "unk_rate", "active_units"}
    assert result.keys() >= keys | {"relocations"}
    assert "MB in" in done.err
    assert command("generate", out, "--prompt", "abc", "--max-new-tokens", 3).code == 0
    info = json.loads(command("info", out, "--json").out)
    assert info["model"]["field"]["num_units"] == 32
    figures = json.loads(command("eval", out, "--suite", "field", "--quick", "--json").out)
    assert len(figures["diagnostics"]) == 6
    assert (out / "field" / "figures" / "coverage.png").is_file()
    again = command("distill", finished, "--data", source, "--out", out, *FLAGS)
    assert again.code == 2
    assert "must name a folder without a run" in again.err
    printed = command("distill", finished, "--data", source, "--out", out, *FLAGS, "--overwrite")
    assert "bits per byte on validation text" in printed.out


def test_wrong_words_are_told(command: Command, finished: Path, source: Path, tmp_path: Path) -> None:
    def message(*words: object) -> str:
        done = command("distill", finished, "--data", source, "--out", tmp_path / "f", *map(str, words))
        assert done.code == 2
        return done.err

    assert "Did you mean 'hidden'" in message("--mode", "probe", "--capture", "hiden")
    assert "model.mode must be" in message("--mode", "prob")
    assert "vocabulary 259; got 300" in message("--vocab-limit", 300)
    assert "--suite field must measure a run of rhapsode distill" in command("eval", finished, "--suite", "field").err

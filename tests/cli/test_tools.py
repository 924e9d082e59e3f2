"""rhapsode list, tokenizer, prepare and eval: what they print for people."""

import json
import re
from pathlib import Path

import pytest

from rhapsode.text.shards import load_corpus
from rhapsode.text.tokenizer import load_tokenizer
from rhapsode.training.config import recipe_names
from tiny_runs import FLAGS

from .conftest import Command


def test_list_names_what_a_recipe_may_name(command: Command) -> None:
    rows = json.loads(command("list", "--json").out)
    assert rows.keys() >= {"recipes", "embedders", "mixers", "feed_forwards", "heads", "tokenizers", "suites"}
    assert [row["name"] for row in rows["recipes"]] == [*recipe_names(), "hft"]
    done = command("list", "mixers")
    assert done.code == 0
    head, *lines = done.out.splitlines()
    assert head == "mixers"
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows["mixers"]]
    for line, row in zip(lines, rows["mixers"], strict=True):
        assert line == f"  {row['name']:<16} {row['summary']}  ({row['where']})"


def test_a_tokenizer_is_trained_measured_and_used(command: Command, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    done = command("tokenizer", "train", source, "--kind", "bpe", "--max-vocab-size", 300, "--out", path, "--json")
    result = json.loads(done.out)
    assert result["vocab_size"] == load_tokenizer(path).vocab_size <= 300
    stats = json.loads(command("tokenizer", "stats", path, source, "--json").out)
    assert stats["bytes"] == sum(len(file.read_bytes()) for file in source.iterdir())
    assert stats["bytes_per_token"] == stats["bytes"] / stats["tokens"] > 1.5
    table = command("tokenizer", "stats", path, source).out
    assert f"bytes            {stats['bytes']:,}\n" in table
    flags = [*FLAGS, "--steps", 1, "--params", "65k"]
    flags[flags.index("bytes")] = str(path)
    done = command("train", source, "--out", tmp_path / "run", *flags, "--json")
    assert json.loads(done.out)["vocab_size"] == result["vocab_size"]


def test_prepared_text_trains(command: Command, source: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    done = command("prepare", source, "--tokenizer", "bytes", "--out", shards, "--split-seed", 2, "--json")
    result = json.loads(done.out)
    corpus = load_corpus(shards)
    assert result["tokens"] == {part: len(getattr(corpus, part)) for part in ("train", "validation", "calibration")}
    assert result["data_hash"] == corpus.data_hash
    flags = [word for word in FLAGS if word not in {"--tokenizer", "bytes"}]
    assert command("train", shards, "--out", tmp_path / "run", *flags, "--steps", 1).code == 0
    done = command("prepare", source, "--out", shards)
    assert done.code == 2
    error = done.err.splitlines()[-1]
    assert error.startswith(f"rhapsode: --out must name a new folder; got {shards}, which is prepared already.")


def test_eval_for_people(command: Command, finished: Path) -> None:
    result = json.loads(command("eval", finished, "--json").out)
    done = command("eval", finished)
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["bits_per_byte"] == f"{result['bits_per_byte']:.4f}"
    assert lines["interval"] == " .. ".join(f"{value:.4f}" for value in result["interval"])
    assert lines["n"] == f"{result['n']:,}"
    assert re.fullmatch(r"\d\.\d{4}", lines["kneser_ney_bits_per_byte"])


def test_an_ngram_tokenizer_from_learning_to_export(command: Command, source: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "tok.json", next(source.iterdir())
    done = command("tokenizer", "train", source, "--kind", "ngram", "--cap", 320, "--out", path, "--json")
    assert json.loads(done.out)["vocab_size"] == 320
    assert done.err.splitlines() == [
        "ngram tokenizer: base ids 259, cap 320, remaining capacity 61",
        "vocab_size capped at 320",
        "learnt 61 tokens, final vocab_size 320",
    ]
    stats = json.loads(command("tokenizer", "stats", path, "--data", text, "--json").out)
    ids = load_tokenizer(path).encode(text.read_text())
    assert stats["tokens"] == len(ids)
    assert stats["unused"] == 317 - len(set(ids.tolist()))
    assert stats["mb_per_s"] > 0
    result = json.loads(command("tokenizer", "export", path, "--out", tmp_path / "hf.json", "--json").out)
    assert result["model"] == "Unigram"
    assert json.loads((tmp_path / "hf.json").read_text())["model"]["type"] == "Unigram"


def test_tokenizers_that_cannot_be(command: Command, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "tok.json"
    done = command("tokenizer", "train", source, "--kind", "ngram", "--cap", 100, "--out", out)
    assert done.code == 2
    assert done.err.startswith("rhapsode: tokenizer.max_vocab_size must be at least 259 (3 specials and 256 bytes); ")
    flags = ("--kind", "ngram", "--encoding", "greedy", "--cap", 300, "--out", out)
    assert command("tokenizer", "train", source, *flags).code == 0
    done = command("tokenizer", "export", out, "--out", tmp_path / "hf.json")
    assert done.code == 2
    assert "tokenizer.encoding must be shortest to be exported; got greedy" in done.err


def test_a_place_that_cannot_hold_a_tokenizer_is_known_before_anything_is_read(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("text was opened")

    monkeypatch.setattr("rhapsode.text.split.open_sources", refuse)
    for out in (tmp_path / "none" / "tokenizer.json", tmp_path):
        done = command("tokenizer", "train", "stdlib", "--out", out)
        assert (done.code, "--out must name a file in a folder that can be written; got" in done.err) == (2, True)
    # of a folder that exists, the system says whether it may be written.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    done = command("tokenizer", "train", "stdlib", "--out", tmp_path / "tokenizer.json")
    assert (done.code, "Choose another --out" in done.err) == (2, True)

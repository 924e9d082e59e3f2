"""rhapsode embed: the options and outputs of the program, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from rhapsode.cli import options
from rhapsode.errors import StateError, UserError
from rhapsode.nn.holographic_files import KEYS, STORE, load_embedding
from rhapsode.text.ngram.tokenizer import NgramTokenizer
from tiny_runs import train_tiny

from .conftest import Command

TINY = ["--vocab-size", 300, "--embedding-dim", 16, "--num-bundles", 30, "--max-steps", 12, "--batch-size", 16]


def test_training_writes_a_store_and_the_promised_figures(command: Command, tmp_path: Path) -> None:
    done = command("embed", "train", "--quick", *TINY, "--out", tmp_path / "e", "--warmup-steps", 3, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result.keys() >= {"loss", "top1", "top5", "grad_norm", "closed_form_loss", "ln_vocab"}
    assert result["ln_vocab"] == pytest.approx(np.log(300))
    assert result["size_bytes"] == 4 * 30 * 16
    assert result["key_bytes"] == 4 * 300 * 16
    assert "step 10: loss=" in done.err
    assert "[EVAL] loss=" in done.err
    embedding = load_embedding(tmp_path / "e")
    assert np.load(tmp_path / "e" / STORE).shape == (30, 16)
    assert np.array_equal(np.load(tmp_path / "e" / KEYS), embedding.keys().numpy())
    done = command("embed", "train", "--quick", *TINY, "--out", tmp_path / "e")
    assert done.code == 2
    assert "--out must name a folder without an embedding" in done.err
    flags = ["--quick", *TINY, "--out", tmp_path / "e", "--warmup-steps", 3, "--resume", "--json"]
    again = json.loads(command("embed", "train", *flags).out)
    assert {k: v for k, v in again.items() if k in {"loss", "top1", "top5"}} == {
        k: v for k, v in result.items() if k in {"loss", "top1", "top5"}
    }
    done = command("embed", "train", *flags, "--seed", 3)
    assert (done.code, "--resume must repeat what" in done.err) == (1, True)


def test_a_space_of_text_is_looked_around_in(command: Command, source: Path, tmp_path: Path) -> None:
    curriculum = tmp_path / "c.toml"
    curriculum.write_text(f'[[sources]]\nsource = "{source}"\nweight = 1.0\n')
    flags = ["--objective", "skip_gram", "--curriculum", curriculum, "--out", tmp_path / "e", "--json"]
    done = command("embed", "train", *TINY, *flags)
    assert done.code == 0, done.err
    assert json.loads(done.out)["closed_form_loss"] is None
    near = json.loads(command("embed", "nearest", tmp_path / "e", "abc", "--top", 4, "--json").out)["found"]
    assert [one["score"] for one in near] == sorted((one["score"] for one in near), reverse=True)
    assert len(near) <= 4
    paragraph = (source / "3.txt").read_text().strip()
    found = json.loads(command("embed", "search", tmp_path / "e", paragraph, source, "--top", 2, "--json").out)["found"]
    assert found[0]["text"] == paragraph
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)
    lines = command("embed", "search", tmp_path / "e", paragraph, source, "--top", 2).out
    assert lines.startswith("1.000  ")
    done = command("embed", "search", tmp_path / "e", " ", source)
    assert (done.code, "what is looked for must not be empty" in done.err) == (2, True)
    blank, short = tmp_path / "blank.txt", tmp_path / "short.txt"
    blank.write_text(" \n\n \n")
    done = command("embed", "search", tmp_path / "e", "abc", blank)
    assert (done.code, "SOURCE must hold text to be searched; got only white space" in done.err) == (2, True)
    # text is searched as it stands, not in the parts that a training needs.
    short.write_text("one paragraph only")
    found = json.loads(command("embed", "search", tmp_path / "e", "abc", short, "--json").out)["found"]
    assert [one["text"] for one in found] == ["one paragraph only"]


def test_a_resume_needs_the_text_it_began_with(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words of a text " * 50)
    flags = ["embed", "train", *TINY, "--data", text, "--out", tmp_path / "e"]
    assert command(*flags).code == 0
    assert command(*flags, "--resume").code == 0
    text.write_text("other words of the text " * 50)
    done = command(*flags, "--resume")
    assert done.code == 1
    assert "--resume must find the text, tokenizer and teacher that the training began with; one has" in done.err


def test_a_folder_that_is_taken_or_cannot_be_written_is_left_alone(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    before = sorted(finished.rglob("*"))
    done = command("embed", "train", *TINY, "--out", finished, "--overwrite")
    assert (done.code, "--out must name a folder without a run; got" in done.err) == (2, True)
    assert sorted(finished.rglob("*")) == before
    (tmp_path / "file").write_text("")
    # nor is an embedding replaced by a run.
    assert command("embed", "train", *TINY, "--out", tmp_path / "e").code == 0
    before = sorted((tmp_path / "e").rglob("*"))
    for flags in ([], ["--overwrite"]):
        done = command("train", tmp_path / "file", "--out", tmp_path / "e", *flags)
        assert (done.code, "--out must not name the folder of an embedding; got" in done.err) == (2, True)
    assert sorted((tmp_path / "e").rglob("*")) == before
    # nor one that was stopped before its end.
    (tmp_path / "e" / "embedding.json").unlink()
    assert command("train", tmp_path / "file", "--out", tmp_path / "e").code == 2
    done = command("embed", "train", *TINY, "--out", tmp_path / "file")
    assert (done.code, "--out must name a writable folder; got" in done.err) == (2, True)


def test_a_runs_table_is_distilled_and_the_store_starts_a_run(
    command: Command, finished: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    done = command(
        "embed", "train", "--objective", "distil", "--teacher", finished, "--max-steps", 5, "--num-bundles", 64,
        "--batch-size", 32, "--out", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["relative_error"] > 0
    embedding = load_embedding(out)
    model = {"embed": "holographic", "width": embedding.algebra.dim, "num_layers": 1}
    settings = {"model": {**model, "holographic": {"store": str(out), "num_bundles": 64}}, "training": {"steps": 2}}
    record = train_tiny(source, tmp_path / "run", settings=settings)
    assert record["steps"] == 2
    NgramTokenizer([b"ab"]).save(out / "tokenizer.json")
    with pytest.raises(
        UserError, match=r"store must be of the model's tokenizer; .* Add --tokenizer .*tokenizer\.json"
    ):
        train_tiny(source, tmp_path / "other", settings=settings)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--objective", "skip_gram"], "--data must name text with --objective skip_gram; got synthetic"),
        (["--objective", "distil"], "--teacher must name a run with --objective distil, and only then"),
        (["--data", "stdlib", "--curriculum", "python-prose"], "--data and --curriculum must not be given together"),
        (["--tokenizer", "t.json"], "--tokenizer must come with --data that names text"),
        (
            ["--objective", "distil", "--teacher", "run", "--data", "stdlib"],
            "--data must not come with --teacher, whose table is all that is read",
        ),
        (["--resume", "--overwrite"], "--resume and --overwrite must not be given together"),
        # what --set gives is called by the name that --set gives it.
        (["--set", "dim=0"], "embed.dim must be greater than or equal to 1; got 0."),
        (["--embedding-dim", 8, "--set", "dim=0"], "embed.dim must be greater than or equal to 1; got 0."),
        (["--set", "window=0"], "embed.window must be greater than or equal to 1; got 0."),
    ],
)
def test_misuse_is_one_sentence(command: Command, tmp_path: Path, flags: list[object], sentence: str) -> None:
    done = command("embed", "train", "--quick", "--vocab-size", 50, "--out", tmp_path / "e", *flags)
    assert done.code == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--out", "FILE"], "--out must name a writable folder; got FILE"),
        (["--data", "nowhere"], "--data must name a file, a folder or a glob that exists; got nowhere."),
        (["--data", "FILE"], "--vocab-size must be at least 259 (3 specials and 256 bytes); got 50."),
        (["--curriculum", "nothing"], "--curriculum must be one of python-code, python-prose; got 'nothing'."),
        (["--curriculum", "nowhere.toml"], "--curriculum nowhere.toml must be a readable file; got No such file"),
        (["--curriculum", "TOML"], "--curriculum must name a file, a folder or a glob that exists; got nowhere.txt."),
        (
            ["--objective", "meaning"],
            "--objective must be 'addressing', 'old', 'distil' or 'skip_gram'; got 'mean",
        ),
        (["--objective", "distil", "--teacher", "nowhere"], "--teacher must name the folder of a run; got nowhere"),
        (["--data", "FILE", "--tokenizer", "nowhere"], "--tokenizer must name a saved tokenizer; got nowhere"),
        (["--vocab-size", 0], "--vocab-size must be greater than or equal to 1; got 0."),
        (["--embedding-dim", 0], "--embedding-dim must be greater than or equal to 1; got 0."),
        (["--num-bundles", 0], "--num-bundles must be from --num-hashes to the vocabulary of 50; got 0 with 1 hashes."),
        (["--num-bundles", 51], "--num-bundles must be from --num-hashes to the vocabulary of 50; got 51"),
        (["--num-hashes", 0], "--num-hashes must be greater than or equal to 1; got 0."),
        (["--num-hashes", 51], "--num-hashes must be at most the vocabulary of 50; got 51. Try 1."),
        (["--algebra", "plain"], "--algebra must be 'holographic', 'sign_flip' or 'gaussian'; got 'plain'."),
        (["--max-steps", 0], "--max-steps must be greater than or equal to 1; got 0."),
        (["--batch-size", 1], "--batch-size must be greater than or equal to 2; got 1."),
        (["--learning-rate", 0], "--learning-rate must be greater than 0; got 0.0."),
        (["--warmup-steps", -1], "--warmup-steps must be greater than or equal to 0; got -1."),
        (["--warmup-steps", 100], "--warmup-steps must be below --max-steps; got 100 and 100."),
        (["--patience", 0], "--patience must be greater than or equal to 1; got 0."),
        (["--seed", -1], "--seed must be greater than or equal to 0; got -1."),
        (["--embedding-dim", "wide"], "Invalid value for '--embedding-dim': "),
    ],
)
def test_an_error_names_the_flag_that_was_typed(
    command: Command, tmp_path: Path, flags: list[object], sentence: str
) -> None:
    places = {"FILE": tmp_path / "file.txt", "TOML": tmp_path / "c.toml"}
    places["FILE"].write_text("some words of a text " * 50)
    places["TOML"].write_text('[[sources]]\nsource = "nowhere.txt"\n')
    begin = ["embed", "train", "--quick", "--vocab-size", 50, "--num-bundles", 20, "--out", tmp_path / "e"]
    done = command(*begin, *(places.get(str(flag), str(flag)) for flag in flags))
    assert done.code == 2
    assert done.err.startswith(f"rhapsode: {sentence.replace('FILE', str(places['FILE']))}")
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert not (tmp_path / "e").exists()


def test_a_tokenizer_that_is_damaged_is_called_by_its_flag(command: Command, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{")
    done = command("embed", "train", "--data", "stdlib", "--tokenizer", tmp_path / "t.json", "--out", tmp_path / "e")
    assert done.code == 1
    assert f"--tokenizer {tmp_path / 't.json'} must hold JSON, but it is damaged." in done.err


def test_whole_names_become_flags_and_nothing_else() -> None:
    flags = {"embed.dim": "--embedding-dim", "embed.dim_of": "--other", "RUN": "--teacher"}
    with (
        pytest.raises(StateError, match=r"^--embedding-dim, --other, embed\.dims, a\.embed\.dim, --teacher or RUNS\.$"),
        options.name_flags(flags),
    ):
        raise StateError("embed.dim, embed.dim_of, embed.dims, a.embed.dim, RUN or RUNS.")


def test_a_space_without_text_is_refused(command: Command, tmp_path: Path) -> None:
    command("embed", "train", *TINY, "--out", tmp_path / "e")
    done = command("embed", "nearest", tmp_path / "e", "word")
    assert (done.code, "an embedding must be of text to be searched" in done.err) == (2, True)

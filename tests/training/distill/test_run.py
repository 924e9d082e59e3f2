"""A whole distillation of a tiny run."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode import api
from rhapsode.errors import StateError, UserError
from rhapsode.runfolder import RunFolder, read_json, write_json
from tiny_runs import train_tiny, write_texts

SETTINGS: dict[str, Any] = {
    "model": {
        "dim": 64,
        "window": 4,
        "stage1_dim": 16,
        "seq_len": 64,
        "field": {"num_units": 48, "num_active": 8, "rank": 8},
    },
    "training": {"steps": 12, "batch_size": 128, "threads": 1, "seed_positions": 256, "eval_positions": 600},
}
KEYS = {
    "bits_per_byte",
    "teacher_bits_per_byte",
    "unigram_bits_per_byte",
    "kl",
    "unk_rate",
    "active_units",
    "relocations",
}


def settings(**sections: dict[str, Any]) -> dict[str, Any]:
    from rhapsode.config import merge

    return merge(SETTINGS, sections)


@pytest.fixture(scope="module")
def distilled(teacher_run: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, api.Record]:
    out = tmp_path_factory.mktemp("distilled") / "run"
    return out, api.distill(teacher_run, data=str(source), out=out, settings=SETTINGS)


def test_it_says_what_was_asked_for(distilled: tuple[Path, api.Record]) -> None:
    _, result = distilled
    assert set(result) >= KEYS
    assert 0 < result.bits_per_byte < result.unigram_bits_per_byte + 1
    assert result.unk_rate == 0.0
    assert 0 < result.active_units <= 48
    assert result.steps == 12


def test_a_loaded_field_predicts_bit_for_bit_alike(distilled: tuple[Path, api.Record]) -> None:
    out, result = distilled
    one, other = api.load(out, device="cpu"), api.load(out, device="cpu")
    ids = torch.randint(3, 259, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(one.decoder.loss(ids, ids), other.decoder.loss(ids, ids))
    from rhapsode.training.distill.blocks import BlockReader
    from rhapsode.training.distill.scoring import collect_figures, summarise
    from rhapsode.training.distill.shards import Capture

    model: Any = one.decoder
    reader = BlockReader(Capture(out / "capture" / "validation"), model.context, model.config.window)
    again = summarise(collect_figures(model, reader), model, one.tokenizer)
    assert again["bits_per_byte"] == result.bits_per_byte
    assert again["kl"] == result.kl


def test_steps_and_whole_texts_agree(distilled: tuple[Path, api.Record]) -> None:
    model = api.load(distilled[0], device="cpu").decoder
    ids = torch.randint(3, 259, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden, _ = model.hidden(ids)
        whole = model.logits(hidden)
        state, steps = None, []
        for at in range(12):
            hidden, state = model.hidden(ids[:, at : at + 1], state)
            steps.append(model.logits(hidden))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_it_generates_and_says_what_it_is(distilled: tuple[Path, api.Record]) -> None:
    model = api.load(distilled[0], device="cpu")
    done = model.generate("abc", max_new_tokens=8, seed=1)
    assert done.tokens <= 8
    assert model.generate("abc", max_new_tokens=8, seed=1).ids == done.ids
    info = model.info()
    assert info.recipe == "hft"
    assert info.teacher["kind"] == "run"
    assert info.model["vocab_size"] == 259


def test_it_drafts_and_refuses_what_a_field_cannot_do(distilled: tuple[Path, api.Record]) -> None:
    model = api.load(distilled[0], device="cpu")
    drafted = model.generate("abc", max_new_tokens=8, temperature=0, decode="draft")
    assert drafted.tokens == 8
    with pytest.raises(UserError, match=r"^generation\.decode must be plain or draft for a field.*got exact"):
        model.generate("abc", decode="exact")
    with pytest.raises(UserError, match=r"^--context bundle must go to a model .* got field"):
        model.generate("abc", context="bundle")
    with pytest.raises(UserError, match=r"^bundles must go to a model .* got a field"):
        model.decoder.hidden(torch.randint(0, 9, (1, 3)), bundles=torch.randn(1, 1, 4))


def test_a_field_can_go_back(distilled: tuple[Path, api.Record]) -> None:
    decoder = api.load(distilled[0], device="cpu").decoder
    ids = torch.randint(0, 200, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, begun = decoder.hidden(ids[:, :5])
        _, too_far = decoder.hidden(ids[:, 5:], begun)
        back = decoder.rewind(too_far, 3)
        assert (back.position, back.added) == (8, 3)
        _, straight = decoder.hidden(ids[:, 5:8], begun)
        again, _ = decoder.hidden(ids[:, 8:], back)
        wanted, _ = decoder.hidden(ids[:, 8:], straight)
    assert torch.equal(again, wanted)


def test_what_was_taught_has_a_say(distilled: tuple[Path, api.Record]) -> None:
    model = api.load(distilled[0], device="cpu")
    model.teach("the zebra quokka lives in Perth")
    said = model.generate("the zebra quokka lives in", memory=True, max_new_tokens=6, temperature=0)
    assert said.tokens == 6
    assert np.isfinite(model.evaluate("perplexity").bits_per_byte)


def test_perplexity_agrees_with_the_distillation(distilled: tuple[Path, api.Record]) -> None:
    out, result = distilled
    figures = api.load(out, device="cpu").evaluate("perplexity")
    # the suite scores all of the validation text, the distillation its first 600 positions.
    assert abs(figures.bits_per_byte - result.bits_per_byte) < 0.3


def test_the_field_suite_draws_and_tells(distilled: tuple[Path, api.Record]) -> None:
    out, _ = distilled
    result = api.load(out, device="cpu").evaluate("field", quick=True)
    names = [row["diagnostic"] for row in result.diagnostics]
    assert names == ["projection", "coverage", "divergence", "coupling", "relocation", "waking"]
    assert len(result.figures) == 7
    for path in result.figures:
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    static, cache, field, learning, both = (row["bits_per_byte"]["value"] for row in result.online)
    assert cache < static
    assert learning < field + 0.05
    assert np.isfinite(both)


def test_a_field_is_not_trained_on(distilled: tuple[Path, api.Record], source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init must name a run of rhapsode train"):
        train_tiny(source, tmp_path / "run", init=distilled[0])
    with pytest.raises(UserError, match="--resume must name a run of rhapsode train"):
        api.train([], out=distilled[0], resume=True)


def test_metrics_hold_units_loss_and_every_move(teacher_run: Path, source: Path, tmp_path: Path) -> None:
    chosen = settings(training={"relocate": True, "relocation": {"every": 3, "max_moves": 2, "queue_size": 16}})
    result = api.distill(teacher_run, data=str(source), out=tmp_path / "run", settings=chosen)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    moves = [row["relocation"] for row in rows if "relocation" in row]
    assert len(moves) == result.relocations > 0
    assert any(move["later"] is not None for move in moves)
    updates = [row for row in rows if "step" in row]
    assert updates[-1]["step"] == 12
    assert set(updates[0]) >= {"train_loss", "train_kl", "active_units", "mean_abs_distance", "stage1_gradient"}
    # both stages are taught by one gradient; only at the very first update is the line that it comes through zero.
    assert all(row["stage1_gradient"] > 0 for row in updates[1:])


@pytest.mark.parametrize(
    "model",
    [
        {"mode": "probe", "window": 1, "ngrams": [1]},
        {"base": "unigram", "vocab_limit": 6},
        pytest.param(
            {"stage1": "field", "stage1_field": {"num_units": 16, "num_active": 4, "rank": 4}}, marks=pytest.mark.slow
        ),
        pytest.param({"stage1": "none"}, marks=pytest.mark.slow),
        pytest.param({"whiten": "zca"}, marks=pytest.mark.slow),
        pytest.param({"views": 2, "field": {"init": "kmeans", "gate": "slab"}}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_is_distilled_loaded_and_used(
    teacher_run: Path, source: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    chosen = settings(model=model)
    result = api.distill(teacher_run, data=str(source), out=tmp_path / "run", settings=chosen)
    assert np.isfinite(result.bits_per_byte)
    if "vocab_limit" in model:
        assert result.unk_rate > 0
        assert result.shortlist_nats_per_token < result.nats_per_token
    loaded = api.load(tmp_path / "run", device="cpu")
    assert loaded.generate("ab", max_new_tokens=3).tokens > 0


def test_a_frozen_first_stage_does_not_move(teacher_run: Path, source: Path, tmp_path: Path) -> None:
    chosen = settings(training={"joint": "frozen"})
    api.distill(teacher_run, data=str(source), out=tmp_path / "run", settings=chosen)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage1_gradient"] for row in rows if "step" in row} == {0.0}


def test_a_probe_needs_its_teacher(source: Path, tmp_path: Path) -> None:
    train_tiny(source, tmp_path / "teacher")
    chosen = settings(model={"mode": "probe", "window": 1, "ngrams": [1]})
    api.distill(tmp_path / "teacher", data=str(source), out=tmp_path / "run", settings=chosen)
    header = read_json(RunFolder(tmp_path / "run").run)
    write_json(RunFolder(tmp_path / "run").run, {**header, "teacher": {**header["teacher"], "fingerprint": "0" * 64}})
    with pytest.raises(StateError, match="must be the teacher that this probe reads"):
        api.load(tmp_path / "run")


def test_wrong_requests_are_refused(teacher_run: Path, source: Path, tmp_path: Path) -> None:
    def distil(teacher: Path = teacher_run, **sections: dict[str, Any]) -> None:
        api.distill(teacher, data=str(source), out=tmp_path / "run", settings=settings(**sections))

    with pytest.raises(UserError, match=r"model.vocab_limit must lie between 2 and the teacher's vocabulary 259"):
        distil(model={"vocab_limit": 5000})
    with pytest.raises(UserError, match=r"model.dim must be a power of two; got 100. Try 64"):
        distil(model={"dim": 100})
    with pytest.raises(UserError, match="must be left out in replacement mode"):
        distil(training={"capture": "hidden"})
    with pytest.raises(UserError, match="must have one budget"):
        distil(training={"minutes": 1.0})
    with pytest.raises(UserError, match=r"model.ngrams must be different lengths"):
        distil(model={"ngrams": [1, 9]})
    with pytest.raises(UserError, match=r"training.top_k must lie between 1 and the teacher's vocabulary 259; got"):
        distil(training={"top_k": 5000})
    with pytest.raises(UserError, match=r"training.folds must be .*64"):
        distil(training={"folds": 65})
    with pytest.raises(UserError, match=r"model.whiten must be none without a matrix .*got zca"):
        distil(model={"whiten": "zca", "stage1": "table"})
    with pytest.raises(UserError, match=r"^--data must name a file, a folder or a glob that exists; got nowhere"):
        api.distill(teacher_run, data="nowhere", out=tmp_path / "run")
    with pytest.raises(UserError, match="--out must name another folder than TEACHER"):
        api.distill(tmp_path, data=str(source), out=tmp_path)
    with pytest.raises(UserError, match="for train"):
        api.distill(teacher_run, data=str(source), out=tmp_path / "run", recipe="gpt")
    with pytest.raises(UserError, match="Did you mean 'hft'"):
        api.distill(teacher_run, data=str(source), out=tmp_path / "run", recipe="htf")
    with pytest.raises(UserError, match="must be used by rhapsode distill"):
        api.train(str(source), out=tmp_path / "run", recipe="hft")
    assert not RunFolder(tmp_path / "run").exists()


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_may_be_shorter_than_the_usual_ngrams(
    teacher_run: Path, source: Path, tmp_path: Path, window: int
) -> None:
    result = api.distill(
        teacher_run, data=str(source), out=tmp_path / "run", settings=settings(model={"window": window})
    )
    assert result.bits_per_byte < 8


def test_shards_of_another_tokenizer_are_refused(teacher_run: Path, tmp_path: Path) -> None:
    from rhapsode.text.chars import CharsTokenizer
    from rhapsode.text.config import DataConfig
    from rhapsode.text.prepare import prepare
    from rhapsode.text.split import open_sources

    texts = write_texts(tmp_path / "texts")
    prepare(open_sources([str(texts)], DataConfig()), CharsTokenizer("é"), tmp_path / "shards")
    with pytest.raises(UserError, match="must be encoded by the teacher's tokenizer"):
        api.distill(teacher_run, data=str(tmp_path / "shards"), out=tmp_path / "run")


def test_a_capture_is_used_again(teacher_run: Path, source: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    from rhapsode.training.run import Observer

    for _ in range(2):
        api.distill(
            teacher_run,
            data=str(source),
            out=tmp_path / "run",
            settings=SETTINGS,
            overwrite=True,
            observer=Observer(say=heard.append),
        )
    assert any("shards are there" in sentence for sentence in heard)
    # another text: what the old run had read goes with it.
    other = write_texts(tmp_path / "other", num_documents=5)
    api.distill(teacher_run, data=str(other), out=tmp_path / "run", settings=SETTINGS, overwrite=True)
    with pytest.raises(StateError, match="it is of another text"):
        api.distill(
            teacher_run,
            data=str(source),
            out=tmp_path / "run",
            settings=SETTINGS,
            overwrite=True,
            cache=tmp_path / "run" / "capture",
        )


def test_a_run_without_its_weights_is_refused(distilled: tuple[Path, api.Record], tmp_path: Path) -> None:
    out, _ = distilled
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    RunFolder(copy).model.unlink()
    with pytest.raises(StateError, match=r"model\.safetensors must hold the weights of the run; it is missing"):
        api.load(copy)


def test_a_text_is_read_no_more_often_than_asked(teacher_run: Path, source: Path, tmp_path: Path) -> None:
    from rhapsode.training.run import Observer

    heard: list[str] = []

    def distilled_for(epochs: float) -> api.Record:
        wanted = copy.deepcopy(SETTINGS)
        del wanted["training"]["steps"]
        # minutes that no test would wait for.
        wanted["training"] |= {"minutes": 60.0, "max_epochs": epochs}
        out, cache = tmp_path / str(epochs), tmp_path / "cache"
        return api.distill(
            teacher_run, data=str(source), out=out, cache=cache, settings=wanted, observer=Observer(say=heard.append)
        )

    once = distilled_for(1.0)
    assert distilled_for(2.0).steps == 2 * once.steps
    assert any("the text was read 2.00 times" in sentence for sentence in heard)
    # the rate ends at zero where the text does.
    rows = [json.loads(line) for line in (tmp_path / "1.0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == once.steps
    assert rows[-1]["rate"] < 0.1 * max(row["rate"] for row in rows)

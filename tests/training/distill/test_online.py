"""That a field scores before it learns, and that the static model stays as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rhapsode import api
from rhapsode.training.distill.blocks import BlockReader
from rhapsode.training.distill.config import DistillConfig
from rhapsode.training.distill.online import adapt
from rhapsode.training.distill.shards import Capture

from .test_run import SETTINGS


@pytest.fixture(scope="module")
def opened(teacher_run: Path, source: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    out = tmp_path_factory.mktemp("online") / "run"
    api.distill(teacher_run, data=str(source), out=out, settings=SETTINGS)
    model = api.load(out, device="cpu").decoder
    return model, BlockReader(Capture(out / "capture" / "validation"), model.context, model.config.window)


def test_what_comes_later_changes_no_score(opened) -> None:  # type: ignore[no-untyped-def]
    model, reader = opened
    before = {name: p.clone() for name, p in model.named_parameters()}
    short, long = (adapt(model, reader, DistillConfig(online_block=32), 1e-2, limit) for limit in (64, 256))
    for name in ("field", "online", "base", "cache", "both"):
        np.testing.assert_allclose(getattr(short, name), getattr(long, name)[:64], rtol=1e-4, atol=1e-5)
    # the first stretch is scored by what was known before.
    np.testing.assert_allclose(long.online[:32], long.field[:32], rtol=1e-5, atol=1e-5)
    assert np.abs(long.online[32:] - long.field[32:]).max() > 1e-4
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_growing_counts_gain_on_a_text_of_few_words(opened) -> None:  # type: ignore[no-untyped-def]
    model, reader = opened
    scores = adapt(model, reader, DistillConfig(), 1e-3, 512)
    assert scores.cache.mean() < scores.base.mean()
    assert scores.both.mean() < scores.field.mean()

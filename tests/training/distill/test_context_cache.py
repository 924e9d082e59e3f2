"""Contexts that were projected once are read again, and agree with those that are projected anew."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError
from rhapsode.models.field.base import BaseDistribution
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection
from rhapsode.models.field.model import FieldModel
from rhapsode.models.field.shortlist import Shortlist
from rhapsode.text.shards import TokenArray
from rhapsode.training.distill.blocks import ROW, Block, BlockReader
from rhapsode.training.distill.capture import plan_capture, run_capture
from rhapsode.training.distill.context_cache import ContextCache
from rhapsode.training.distill.decoder_teacher import DecoderTeacher


@pytest.fixture(scope="module")
def reader(teacher: DecoderTeacher, tmp_path_factory: pytest.TempPathFactory) -> BlockReader:
    ids = np.random.default_rng(0).integers(3, 259, 4 * ROW + 11).astype(np.uint16)
    tokens = TokenArray(ids, np.array([0]), 0)
    plan = plan_capture(teacher, tokens, tmp_path_factory.mktemp("c") / "x", streams=("ids", "hidden"), top_k=4)
    return BlockReader(run_capture(teacher, tokens, plan, lambda text: None), 3, 2)


def make_model(reader: BlockReader, **changes: object) -> FieldModel:
    width = reader.capture.spec.width
    settings = {"mode": "probe", "dim": 64, "window": 2, "ngrams": (1,), "base": "unigram", "stage1_dim": 8, **changes}
    config = FieldModelConfig(**settings)  # type: ignore[arg-type]
    shortlist = Shortlist.fit(reader.capture.ids, 259, None)
    scales = torch.ones(width) if config.mode == "probe" else None
    return FieldModel(
        config, shortlist, BaseDistribution(shortlist.log_unigram, None), ContextProjection.build(config, 0, scales)
    )


def anew(model: FieldModel, block: Block) -> torch.Tensor:
    found = model.project_block(block.past, block.ids, block.raw)
    assert isinstance(found, torch.Tensor)
    return found


def test_a_stretch_is_projected_once(reader: BlockReader, tmp_path: Path) -> None:
    model = make_model(reader)
    with ContextCache(model, len(reader.capture), tmp_path, 1 << 30) as cache:
        assert cache.share == 1.0
        block = reader.block([2 * ROW, 0], ROW)
        first = cache(block)
        assert "raw" in vars(block)
        again = reader.block([0, 2 * ROW], ROW)
        second = cache(again)
        # what the teacher did is not even looked at.
        assert "raw" not in vars(again)
        torch.testing.assert_close(first, anew(model, block), rtol=1e-3, atol=1e-3)
        assert torch.equal(torch.cat(first.chunk(2)[::-1]), second)
    assert not list(tmp_path.iterdir())


def test_all_can_be_projected_beforehand(reader: BlockReader, tmp_path: Path) -> None:
    model = make_model(reader)
    with ContextCache(model, len(reader.capture), tmp_path, 1 << 30) as cache:
        cache.fill(reader)
        block = reader.block([3 * ROW, ROW], ROW)
        found = cache(block)
        assert "raw" not in vars(block)
        torch.testing.assert_close(found, anew(model, block), rtol=1e-3, atol=1e-3)


def test_what_has_no_place_is_projected_each_time(reader: BlockReader, tmp_path: Path) -> None:
    model = make_model(reader)
    with ContextCache(model, len(reader.capture), tmp_path, 2 * ROW * 64 * 2) as cache:
        assert cache.share == 0.5
        for block in (reader.block([3 * ROW], ROW), reader.block([5], ROW), reader.block([0], 7)):
            assert torch.equal(cache(block), anew(model, block))
    assert not list(tmp_path.iterdir())


def test_whitening_comes_after_reading(reader: BlockReader, tmp_path: Path) -> None:
    model = make_model(reader, whiten="zca")
    with ContextCache(model, len(reader.capture), tmp_path, 1 << 30) as cache:
        block = reader.block([ROW], ROW)
        before = cache(block)
        statistics = model.projection.inner.statistics()
        statistics.update(before)
        model.projection.fit_whitening(statistics)
        torch.testing.assert_close(cache(block), anew(model, block), rtol=2e-2, atol=2e-2)
        assert not torch.equal(cache(block), before)


def test_a_table_stores_nothing(reader: BlockReader, tmp_path: Path) -> None:
    model = make_model(reader, mode="replacement")
    with ContextCache(model, len(reader.capture), tmp_path, 1 << 30) as cache:
        assert cache.size_bytes == 0
        rows, weights = cache(reader.block([0], ROW))
        assert rows.shape == weights.shape == (ROW, rows.shape[1])


def test_a_folder_that_is_not_there_is_told(reader: BlockReader, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"projected\.f16 must be writable"):
        ContextCache(make_model(reader), 100, tmp_path / "none", 1 << 30)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(reader: BlockReader, tmp_path: Path) -> None:
    cache = ContextCache(make_model(reader), len(reader.capture), tmp_path, 1 << 30)
    cache._file.close()
    cache._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - closed below
    with pytest.raises(StateError, match="must be writable; got: No space left"):
        cache(reader.block([0], ROW))
    cache._file.close()

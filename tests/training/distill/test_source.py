from typing import Any

import numpy as np
import torch

from rhapsode.models.field.base import BEFORE
from rhapsode.text.shards import TokenArray
from rhapsode.training.distill.capture import plan_capture, run_capture
from rhapsode.training.distill.decoder_teacher import DecoderTeacher
from rhapsode.training.distill.source import TeacherSource
from rhapsode.training.distill.teacher import Reading


def test_it_reads_what_a_capture_holds(teacher: DecoderTeacher, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ids = np.random.default_rng(0).integers(3, 259, 9).astype(np.uint16)
    ids[0] = teacher.tokenizer.bos_id
    tokens = TokenArray(ids, np.array([0]), 9)
    capture = run_capture(teacher, tokens, plan_capture(teacher, tokens, tmp_path / "c", streams=None, top_k=4))
    source = TeacherSource(teacher, capture.spec.streams)
    # the text is within the first half of a context, so both read it from its beginning.
    whole = torch.from_numpy(ids[:8].astype(np.int64))[None]
    expected = torch.from_numpy(capture.windows(np.arange(8), 3))
    found = source.windows(torch.full((1, 5), BEFORE), whole, 3)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
    # and a step after them.
    one = source.windows(whole[:, :7], whole[:, 7:], 3)
    torch.testing.assert_close(one, expected[7:], rtol=2e-3, atol=2e-4)


def test_streams_past_float16_are_read_as_a_capture_stores_them(teacher: DecoderTeacher, tmp_path) -> None:  # type: ignore[no-untyped-def]
    class Loud:
        def __getattr__(self, name: str) -> Any:
            return getattr(teacher, name)

        def read(self, ids: torch.Tensor) -> Reading:
            reading = teacher.read(ids)
            return Reading({**reading.streams, "hidden": reading.streams["hidden"] * 1e6}, reading.log_probs)

    loud: Any = Loud()
    ids = np.random.default_rng(0).integers(3, 259, 9).astype(np.uint16)
    tokens = TokenArray(ids, np.array([0]), 9)
    capture = run_capture(loud, tokens, plan_capture(loud, tokens, tmp_path / "c", streams=("hidden",), top_k=4))
    expected = torch.from_numpy(capture.features(np.arange(8)))
    assert float(expected.abs().max()) > 65504
    whole = torch.from_numpy(ids[:8].astype(np.int64))[None]
    found = TeacherSource(loud, capture.spec.streams).windows(torch.full((1, 5), BEFORE), whole, 1)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=200.0)


def test_long_pasts_are_read_in_pieces(teacher: DecoderTeacher) -> None:
    ids = torch.randint(3, 259, (1, 60), generator=torch.Generator().manual_seed(0))
    source = TeacherSource(teacher, plan_streams(teacher))
    found = source.windows(ids[:, :10], ids[:, 10:], 2)
    assert found.shape == (50, 2 * source.width)
    # the newest position of each window is the oldest of the one after it.
    torch.testing.assert_close(found[:-1, source.width :], found[1:, : source.width])
    assert bool((found.abs().sum(1) > 0).all())


def plan_streams(teacher: DecoderTeacher):  # type: ignore[no-untyped-def]
    from rhapsode.training.distill.streams import lay_out

    return lay_out(teacher.widths, ("hidden", "metadata"))

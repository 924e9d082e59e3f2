import torch

from rhapsode.models.field.base import BEFORE
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection, last_windows, measure_stream_scales


def test_windows_end_at_their_ids() -> None:
    past, ids = torch.tensor([[BEFORE, 5]]), torch.tensor([[6, 7, 8]])
    assert last_windows(past, ids, 3).tolist() == [[BEFORE, 5, 6], [5, 6, 7], [6, 7, 8]]
    assert last_windows(past, ids, 5).tolist()[0] == [BEFORE, BEFORE, BEFORE, 5, 6]
    assert last_windows(past, ids, 1).tolist() == [[6], [7], [8]]


def test_the_same_ids_in_another_order_lie_apart() -> None:
    projection = ContextProjection.build(FieldModelConfig(dim=256, window=4, ngrams=(1, 2)), 0)
    windows = torch.tensor([[3, 4, 5, 6], [6, 5, 4, 3], [3, 4, 5, 6]])
    z = projection(windows, None)
    assert torch.equal(z[0], z[2])
    cosine = torch.nn.functional.cosine_similarity(z[0], z[1], dim=0)
    assert float(cosine) < 0.6


def test_raw_vectors_have_the_angles_that_are_projected() -> None:
    projection = ContextProjection.build(FieldModelConfig(dim=2048, window=4), 0, torch.full((6,), 0.5))
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(3, 40, (20, 4), generator=generator)
    raw = torch.randn(20, 24, generator=generator)
    before, after = projection.indicators(windows, raw), projection.statistics(windows, raw)
    # one part in sqrt(2048), four deviations, of vectors whose squared length is about 8.
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=0, atol=8 * 4 / 2048**0.5)


def test_streams_are_brought_to_one_length() -> None:
    features = torch.randn(400, 7, generator=torch.Generator().manual_seed(1)) * torch.tensor([9.0] * 3 + [0.1] * 4)
    scales = measure_stream_scales(features, [0, 3, 4])
    assert scales.shape == (7,)
    for part in ((features * scales)[:, :3], (features * scales)[:, 3:]):
        torch.testing.assert_close(part.square().sum(1).mean(), torch.tensor(1.0))
    assert measure_stream_scales(torch.zeros(4, 2), [2]).tolist() == [1, 1]

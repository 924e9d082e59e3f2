"""Contrastive losses against their definitions, in chunks and by samples, and the bounds of the spectral terms."""

import math

import pytest
import torch
import torch.nn.functional as F

from rhapsode.ops import contrastive
from rhapsode.ops.contrastive import (
    bounded_log_variance,
    cosine_loss,
    infonce,
    infonce_sampled,
    inverse_variance,
    log_det,
    off_diagonal,
    squared_magnitude,
)


def make(count: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_infonce_is_its_definition_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, targets = make(11, seed=1), torch.arange(7)
    gradients = []
    for most in (contrastive.MAX_LOGITS, 25):
        monkeypatch.setattr(contrastive, "MAX_LOGITS", most)
        vectors = make(7).requires_grad_(True)
        loss = infonce(vectors, candidates, targets, 0.2)
        cosines = F.cosine_similarity(vectors[:, None], candidates[None], dim=-1) / 0.2
        # the loss itself is float32.
        assert loss.item() == pytest.approx((cosines.logsumexp(1) - cosines[targets, targets]).mean().item(), rel=1e-5)
        loss.backward()
        gradients.append(vectors.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_all_candidates_as_the_sample_give_the_whole_loss() -> None:
    vectors, candidates, targets = make(7), make(11, seed=1), torch.arange(7)
    same = torch.arange(11) == targets[:, None]
    sampled = infonce_sampled(vectors, candidates[targets], candidates, torch.zeros(11).double(), same, 0.2)
    assert sampled.item() == pytest.approx(infonce(vectors, candidates, targets, 0.2).item(), rel=1e-5)


def test_the_correction_makes_a_skewed_sample_estimate_the_whole_sum() -> None:
    vectors, candidates, targets = make(4), make(50, seed=1), torch.arange(4)
    shares = torch.softmax(0.7 * make(50, 1, seed=2)[:, 0], 0)
    drawn = torch.multinomial(shares, 20_000, replacement=True, generator=torch.Generator().manual_seed(3))
    expected = (shares[drawn] * len(drawn)).log()
    loss = infonce_sampled(vectors, candidates[targets], candidates[drawn], expected, drawn == targets[:, None], 0.3)
    whole = infonce(vectors, candidates, targets, 0.3).item()
    # 20,000 draws estimate the sum within about one per cent.
    assert loss.item() == pytest.approx(whole, abs=0.04)
    wrong = infonce_sampled(
        vectors, candidates[targets], candidates[drawn], torch.zeros(20_000).double(), drawn == targets[:, None], 0.3
    )
    assert abs(wrong.item() - whole) > 1


def test_the_bounded_term_is_bounded() -> None:
    assert (
        bounded_log_variance(torch.full((5, 3), 2.0)).item()
        == pytest.approx(-math.log(1e-6))
        == pytest.approx(13.8, abs=0.02)
    )
    for scale, expected in ((1e-5, -math.log(1e-6)), (1.0, 0.0), (50.0, 0.0)):
        vectors = make(4_000)
        vectors = scale * 1.001 * vectors / vectors.var(0, unbiased=False).mean().sqrt()
        assert bounded_log_variance(vectors).item() == pytest.approx(expected, abs=1e-6)
    half = make(4_000)
    half = half / half.var(0, unbiased=False).mean().sqrt() / 2
    assert bounded_log_variance(half).item() == pytest.approx(math.log(4), rel=1e-6)
    assert inverse_variance(half).item() == pytest.approx(4, rel=1e-6)
    assert squared_magnitude(half).item() == pytest.approx(half.pow(2).mean().item())


def test_terms_on_the_spectrum_see_shape_and_not_scale() -> None:
    flat = make(20_000, 4)
    stretched = flat * torch.tensor([10.0, 1.0, 1.0, 0.1])
    assert log_det(flat).item() == pytest.approx(0, abs=0.01)
    assert log_det(stretched).item() > 1
    assert log_det(3 * stretched).item() == pytest.approx(log_det(stretched).item(), rel=1e-6)
    turned = torch.stack([flat[:, 0], flat[:, 0] + 0.1 * flat[:, 1]], 1)
    assert off_diagonal(flat).item() < 0.01 < 0.5 < off_diagonal(turned).item()


@pytest.mark.parametrize("term", [bounded_log_variance, log_det, off_diagonal, inverse_variance, squared_magnitude])
def test_gradients_are_those_of_finite_differences(term: object) -> None:
    vectors = (0.3 * make(8, 3)).requires_grad_(True)
    assert callable(term)
    assert torch.autograd.gradcheck(term, (vectors,))


def test_the_cosine_term_is_zero_in_one_direction() -> None:
    vectors = make(5)
    assert cosine_loss(vectors, 3 * vectors).item() == pytest.approx(0, abs=1e-12)
    assert cosine_loss(vectors, -vectors).item() == pytest.approx(2)

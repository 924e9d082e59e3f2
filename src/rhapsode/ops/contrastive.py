"""Losses that shape a space of vectors. Shapes: N vectors, D their width, C candidates, S sampled ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rhapsode.ops.cross_entropy import cross_entropy

# logits held at once: 64 MB in float32.
MAX_LOGITS = 1 << 24


def infonce(
    vectors: Float[Tensor, "N D"],
    candidates: Float[Tensor, "C D"],
    targets: Int[Tensor, " N"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Mean of -log softmax(cos(vector, candidate) / temperature)[target] over all candidates.

    (van den Oord et al. 2018, arXiv 1807.03748.) Never holds more than `MAX_LOGITS` logits: rows are taken in chunks
    and computed again in the backward pass. Costs O(N C D).
    """
    queries, directions = F.normalize(vectors, dim=-1), F.normalize(candidates, dim=-1)

    def head(rows: Tensor) -> Tensor:
        return rows @ directions.T / temperature

    rows_at_once = max(1, MAX_LOGITS // max(1, len(candidates)))
    return cross_entropy(queries, targets, head, rows_at_once if rows_at_once < len(vectors) else 0).mean()


def infonce_sampled(
    vectors: Float[Tensor, "N D"],
    positives: Float[Tensor, "N D"],
    negatives: Float[Tensor, "S D"],
    log_expected: Float[Tensor, " S"],
    same: Bool[Tensor, "N S"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """InfoNCE against a sample of candidates, corrected for how likely each was to be drawn.

    The logit of a negative is lowered by log(expected number of its draws), so that the sum over the sample estimates
    the sum over all candidates (sampled softmax: Jean et al. 2015, arXiv 1412.2007; log-Q: Bengio & Senecal 2008).

    Args:
        log_expected: for S draws from a distribution q, log(S q) of each drawn candidate.
        same: where a negative is the positive itself; it is left out.
    """
    queries = F.normalize(vectors, dim=-1)
    right = (queries * F.normalize(positives, dim=-1)).sum(-1, keepdim=True) / temperature
    wrong = queries @ F.normalize(negatives, dim=-1).T / temperature - log_expected
    logits = torch.cat([right, wrong.masked_fill(same, float("-inf"))], dim=1)
    return -logits.log_softmax(dim=1)[:, 0].mean()


def cosine_loss(vectors: Float[Tensor, "N D"], targets: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Mean of 1 - cos(vector, target)."""
    return 1 - F.cosine_similarity(vectors, targets, dim=-1).mean()


def bounded_log_variance(vectors: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """max(0, -log clip(mean variance, 1e-6, 10)): 13.8 at a variance of 1e-6 and below, 0 from 1 on.

    It fixes the scale only, which losses of cosines do not see.
    """
    variance = vectors.var(dim=0, unbiased=False).mean()
    return torch.clamp(-torch.log(variance.clamp(1e-6, 10.0)), min=0.0)


def inverse_variance(vectors: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """1 / mean variance: the older form, which has no bound; for comparison only."""
    return 1 / vectors.var(dim=0, unbiased=False).mean()


def squared_magnitude(vectors: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Mean square of all numbers: the older loss, which pulls every vector to zero; for comparison only."""
    return vectors.square().mean()


def log_det(vectors: Float[Tensor, "N D"], floor: float = 1e-4) -> Float[Tensor, ""]:
    """-(1/D) log det of the covariance over its mean variance: 0 where every direction has the same, else above.

    A term on the spectrum that scale does not change. `floor` is added to every eigenvalue.
    """
    covariance = _covariance(vectors)
    size = covariance.shape[0]
    scaled = covariance / covariance.diagonal().mean().clamp(min=1e-12)
    eye = torch.eye(size, dtype=scaled.dtype, device=scaled.device)
    return -torch.logdet((scaled + floor * eye) / (1 + floor)) / size


def off_diagonal(vectors: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Mean over dimensions of squared covariances with the others (VICReg: Bardes et al. 2022, arXiv 2105.04906)."""
    covariance = _covariance(vectors)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / covariance.shape[0]


def _covariance(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(0)
    return centred.T @ centred / max(1, len(vectors) - 1)

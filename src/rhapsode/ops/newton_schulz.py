"""Nearly orthogonal matrices by Newton-Schulz iteration, for the Muon optimizer."""

import torch
from jaxtyping import Float
from torch import Tensor

# quintic coefficients of Jordan et al. 2024 (Muon): they push every singular value into about
# [0.7, 1.2] in five steps instead of converging to 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    matrix: Float[Tensor, "M N"], steps: int = 5, dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "M N"]:
    """Return U V^T, roughly, for matrix = U S V^T.

    The result has `dtype`. Products are taken on the short side, O(steps N M^2) for M <= N. One contiguous matrix
    after another: batched bfloat16 products are several times slower than this loop on a CPU.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T.contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def orthogonalize_plain(matrix: Float[Tensor, "M N"], steps: int = 5) -> Float[Tensor, "M N"]:
    """The same polynomial applied to the singular values themselves, float64 inside."""
    a, b, c = _COEFFICIENTS
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / (values.norm() + 1e-7)
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    product: Tensor = u @ torch.diag(values) @ v
    return product.to(matrix.dtype)

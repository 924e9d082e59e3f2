"""Rounding to float16 that is right on average."""

import torch
from jaxtyping import Float
from torch import Tensor

# bits of a float32's fraction that float16 has no room for, and the spacing of float16 below its least normal number.
_SPARE_BITS = 13
_LEAST_NORMAL, _SUBNORMAL_STEP = 2.0**-14, 2.0**-24


def round_stochastically(values: Float[Tensor, "*S"], generator: torch.Generator | None = None) -> Float[Tensor, "*S"]:
    """Return float16 values, each rounded up or down with probabilities that make the mean exact.

    Rounding to the nearest erases every update under half a step; this keeps it in expectation (Gupta et al. 2015,
    arXiv 1502.02551). Values must be float32 within float16's range.
    """
    noise = torch.randint(0, 1 << _SPARE_BITS, values.shape, generator=generator, dtype=torch.int32)
    bits = (values.contiguous().view(torch.int32) + noise) & ~((1 << _SPARE_BITS) - 1)
    share = noise.to(values.dtype) / (1 << _SPARE_BITS)
    small = torch.floor(values / _SUBNORMAL_STEP + share) * _SUBNORMAL_STEP
    rounded = torch.where(values.abs() < _LEAST_NORMAL, small, bits.view(torch.float32))
    return rounded.clamp(-65504, 65504).half()

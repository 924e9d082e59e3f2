"""Operations that the compiler does not look into, and when to go round them."""

import torch
from torch import Tensor


def needs_operation(x: Tensor) -> bool:
    """Return whether a function of `x` must be called as a registered operation rather than directly.

    That is so while compiling, where shapes alone are computed, and where autograd must find its gradient. Elsewhere
    both give the same bits, and the first call of any registered operation imports PyTorch's compiler: more than a
    second of every process that only reads a model.
    """
    return torch.compiler.is_compiling() or x.is_meta or (torch.is_grad_enabled() and x.requires_grad)

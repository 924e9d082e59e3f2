"""Operations that the compiler does not look into, and when to go round them."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def needs_operation(x: Tensor) -> bool:
    """Return whether a function of `x` must be called as a registered operation rather than directly.

    That is so where somebody compiles, traces or transforms, where shapes alone are computed, and where autograd must
    find its gradient. Elsewhere both give the same bits, and the first call of any registered operation imports
    PyTorch's compiler: more than a second of every process that only reads a model.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return True
    is_plain = type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
    is_watched = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_in_torch_dispatch_mode()
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
    )
    return is_watched or not is_plain

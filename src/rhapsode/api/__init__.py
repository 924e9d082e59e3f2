"""The verbs in Python, such as `rhapsode.train(...)` and `rhapsode.load(...)`. The command line only wraps them.

What a verb returns is what its command prints with `--json`. Names are imported when they are first used: the verbs of
the memory do not need torch, and must not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.api.distillation import distill
    from rhapsode.api.memory import Memory, open_memory, recover_memory
    from rhapsode.api.model import Model, load
    from rhapsode.api.record import Record
    from rhapsode.api.training import build_request, plan, train

_HOMES = {
    "Memory": "rhapsode.api.memory",
    "Model": "rhapsode.api.model",
    "Record": "rhapsode.api.record",
    "build_request": "rhapsode.api.training",
    "distill": "rhapsode.api.distillation",
    "load": "rhapsode.api.model",
    "open_memory": "rhapsode.api.memory",
    "plan": "rhapsode.api.training",
    "recover_memory": "rhapsode.api.memory",
    "train": "rhapsode.api.training",
}
__all__ = [
    "Memory",
    "Model",
    "Record",
    "build_request",
    "distill",
    "load",
    "open_memory",
    "plan",
    "recover_memory",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.api' has no attribute '{name}'")

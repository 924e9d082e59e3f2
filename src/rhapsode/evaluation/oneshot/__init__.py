"""One-shot learning of words: the H-SOKV comparison, its controls, and an honest task beside it.

See docs/systems/hsokv.md. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.evaluation.oneshot.replica import run_oneshot

_HOMES = {"run_oneshot": "rhapsode.evaluation.oneshot.replica"}
__all__ = ["run_oneshot"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.evaluation.oneshot' has no attribute '{name}'")

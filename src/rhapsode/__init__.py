"""Rhapsode: small language models that remember.

>>> import rhapsode
>>> sorted(rhapsode.__all__)[:2]
['load', 'train']

Importing this package imports neither torch nor numpy: the verbs load what they need when called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.api import load, train

__version__ = "0.1.0"
__all__ = ["load", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("rhapsode.api"), name)
    raise AttributeError(f"module 'rhapsode' has no attribute '{name}'")

"""What outlives the context window: n-gram counts and, later, durable stores, key-value and episodic memories.

Names are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.memory.kneser_ney import KneserNey, default_order
    from rhapsode.memory.knn_memory import KNNMemory
    from rhapsode.memory.ngram_memory import NgramMemory
    from rhapsode.memory.unigram import Unigram

_HOMES = {
    "KNNMemory": "rhapsode.memory.knn_memory",
    "KneserNey": "rhapsode.memory.kneser_ney",
    "NgramMemory": "rhapsode.memory.ngram_memory",
    "Unigram": "rhapsode.memory.unigram",
    "default_order": "rhapsode.memory.kneser_ney",
}
__all__ = ["KNNMemory", "KneserNey", "NgramMemory", "Unigram", "default_order"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.memory' has no attribute '{name}'")

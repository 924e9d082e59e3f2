"""Streaming generation: sampling, stop strings, and the engine on the key-value cache.

Names are imported when they are first used, so that importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.generation.config import GenerationConfig
    from rhapsode.generation.engine import Chunk, Generation, Stream, generate, stream
    from rhapsode.generation.sampling import sample

_HOMES = {
    "Chunk": "rhapsode.generation.engine",
    "Generation": "rhapsode.generation.engine",
    "GenerationConfig": "rhapsode.generation.config",
    "Stream": "rhapsode.generation.engine",
    "generate": "rhapsode.generation.engine",
    "sample": "rhapsode.generation.sampling",
    "stream": "rhapsode.generation.engine",
}
__all__ = ["Chunk", "Generation", "GenerationConfig", "Stream", "generate", "sample", "stream"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.generation' has no attribute '{name}'")

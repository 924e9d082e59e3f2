"""Texts to vectors: the encoders that give memories their keys.

Names are imported when they are first used; none of these needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.memory.encoders.config import ENCODERS, StaticEncoderConfig
    from rhapsode.memory.encoders.loading import load_encoder
    from rhapsode.memory.encoders.static import StaticEncoder

_HOMES = {
    "ENCODERS": "rhapsode.memory.encoders.config",
    "StaticEncoder": "rhapsode.memory.encoders.static",
    "StaticEncoderConfig": "rhapsode.memory.encoders.config",
    "load_encoder": "rhapsode.memory.encoders.loading",
}
__all__ = ["ENCODERS", "StaticEncoder", "StaticEncoderConfig", "load_encoder"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.memory.encoders' has no attribute '{name}'")

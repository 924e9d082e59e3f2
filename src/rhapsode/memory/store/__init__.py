"""The durable store: SQLite is the truth, everything else can be rebuilt from it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.memory.store.maintenance import SpaceStats, StoreStats
    from rhapsode.memory.store.sqlite import SQLiteStore
    from rhapsode.memory.store.transfer import Recovery, recover

_HOMES = {
    "Recovery": "rhapsode.memory.store.transfer",
    "SQLiteStore": "rhapsode.memory.store.sqlite",
    "SpaceStats": "rhapsode.memory.store.maintenance",
    "StoreStats": "rhapsode.memory.store.maintenance",
    "recover": "rhapsode.memory.store.transfer",
}
__all__ = ["Recovery", "SQLiteStore", "SpaceStats", "StoreStats", "recover"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.memory.store' has no attribute '{name}'")

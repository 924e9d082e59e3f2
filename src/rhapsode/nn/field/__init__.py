"""Fields of local-linear units as modules. Names are imported when first used: the settings need no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.nn.field.config import FieldConfig, RelocationConfig
    from rhapsode.nn.field.field import Field
    from rhapsode.nn.field.large import LargeField
    from rhapsode.nn.field.relocation import Relocator
    from rhapsode.nn.field.statistics import UnitStatistics

_HOMES = {
    "Field": "rhapsode.nn.field.field",
    "FieldConfig": "rhapsode.nn.field.config",
    "LargeField": "rhapsode.nn.field.large",
    "RelocationConfig": "rhapsode.nn.field.config",
    "Relocator": "rhapsode.nn.field.relocation",
    "UnitStatistics": "rhapsode.nn.field.statistics",
}
__all__ = ["Field", "FieldConfig", "LargeField", "RelocationConfig", "Relocator", "UnitStatistics"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.nn.field' has no attribute '{name}'")

"""Rhapsode: small language models that remember.

>>> import rhapsode
>>> sorted(rhapsode.__all__)[:2]
['FieldClassifier', 'FieldRegressor']

Importing this package imports neither torch nor numpy: the verbs load what they need when called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.api import load, train
    from rhapsode.training.field_regressor import FieldClassifier, FieldRegressor

__version__ = "0.1.0"
_HOMES = {
    "FieldClassifier": "rhapsode.training.field_regressor",
    "FieldRegressor": "rhapsode.training.field_regressor",
    "load": "rhapsode.api",
    "train": "rhapsode.api",
}
__all__ = ["FieldClassifier", "FieldRegressor", "load", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode' has no attribute '{name}'")

"""From a question and a memory to an answer with its sources, or to none.

Names are imported when they are first used; nothing here needs torch, except the encoder made of a model's states.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.answering.calibration import Calibration, calibrate
    from rhapsode.answering.config import AskConfig
    from rhapsode.answering.pipeline import Answer, ask
    from rhapsode.answering.recall import evaluate_recall

_HOMES = {
    "Answer": "rhapsode.answering.pipeline",
    "AskConfig": "rhapsode.answering.config",
    "Calibration": "rhapsode.answering.calibration",
    "ask": "rhapsode.answering.pipeline",
    "calibrate": "rhapsode.answering.calibration",
    "evaluate_recall": "rhapsode.answering.recall",
}
__all__ = ["Answer", "AskConfig", "Calibration", "ask", "calibrate", "evaluate_recall"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rhapsode.answering' has no attribute '{name}'")

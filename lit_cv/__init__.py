"""Learning approaches for computer vision as LightningModules, with the callbacks that drive them.

Every public class is found here by its short name, which is also what the command line takes
(`lit-cv fit --model SupervisedModule`). Attributes load on first use, so that `import lit_cv` and
`lit-cv --help` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cv.callbacks import (
        EMA,
        BatchFigure,
        ClassificationFigures,
        LearningRateLog,
        MonitorEarlyStopping,
        RunCheckpoint,
        TrainingCurves,
    )
    from lit_cv.modules import BaseModule, SupervisedModule

__version__ = "0.1.0"

_MODULES = ("BaseModule", "SupervisedModule")
_CALLBACKS = (
    "EMA",
    "BatchFigure",
    "ClassificationFigures",
    "LearningRateLog",
    "MonitorEarlyStopping",
    "RunCheckpoint",
    "TrainingCurves",
)

__all__ = [
    "EMA",
    "BaseModule",
    "BatchFigure",
    "ClassificationFigures",
    "LearningRateLog",
    "MonitorEarlyStopping",
    "RunCheckpoint",
    "SupervisedModule",
    "TrainingCurves",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module("lit_cv.modules"), name)
    if name in _CALLBACKS:
        return getattr(import_module("lit_cv.callbacks"), name)
    raise AttributeError(f"module 'lit_cv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

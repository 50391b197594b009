"""torchmetrics without `scipy.signal`, whose import takes longer than the rest of torchmetrics."""

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["import_torchmetrics"]

_NAME = "scipy.signal"


class _Deferred(ModuleType):
    """A module that is imported at the first use of an attribute other than `hamming`."""

    hamming = None  # torchmetrics imports the module to add this old name if it is missing

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":  # `inspect` asks each module for it
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_torchmetrics() -> None:
    """Import torchmetrics, as Lightning does, but `scipy.signal` (and with it most of SciPy) only if it is used.

    torchmetrics imports it for a speech metric of another package. `scipy.signal` is importable as usual afterwards.

    Example:
        >>> import_torchmetrics()
    """
    if "torchmetrics" in sys.modules or _NAME in sys.modules:
        return
    placeholder = sys.modules[_NAME] = _Deferred(_NAME)
    try:
        import torchmetrics  # noqa: F401
    finally:
        if sys.modules.get(_NAME) is placeholder:
            del sys.modules[_NAME]

"""Where an error was raised."""

import traceback
from pathlib import Path

__all__ = ["raised_here"]

_PACKAGE = Path(__file__).parent.parent
_HOMES = (_PACKAGE, _PACKAGE.parent / "datamodules")


def raised_here(error: BaseException) -> bool:
    """Tell whether this project raised an error, rather than a library that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(home in Path(frames[-1].filename).parents for home in _HOMES)

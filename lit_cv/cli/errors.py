"""Which errors say what the user can change."""

import traceback
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_cv.running.error_origin import raised_here

__all__ = ["is_for_the_user", "is_of_trainer"]


def is_for_the_user(error: Exception) -> bool:
    """Tell whether an error says what the user can change: one of this project's own, the Trainer's or the system's."""
    if isinstance(error, MisconfigurationException | OSError) or _refused_by_lightning(error):
        return True
    kinds = (ValueError, TypeError, ImportError)
    if not isinstance(error, kinds) or isinstance(error, ModuleNotFoundError):
        return False
    return raised_here(error) or is_of_trainer(error)


def is_of_trainer(error: BaseException) -> bool:
    """Tell whether the Trainer raised an error about what it was given: the devices, for example."""
    if isinstance(error, MisconfigurationException) or _refused_by_lightning(error):
        return True
    return any("accelerator_connector" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _refused_by_lightning(error: BaseException) -> bool:
    """Tell whether Lightning raised an error on purpose, about an option, a package that is missing, or a metric."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    home = Path(L.__file__).parent
    return home in Path(frames[-1].filename).parents and str(frames[-1].line).startswith("raise ")

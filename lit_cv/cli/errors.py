"""Distinguish user errors from bugs."""

import traceback
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_cv.running.error_origin import is_own_error

__all__ = ["is_trainer_error", "is_user_error"]


def is_user_error(error: Exception) -> bool:
    """Return whether an error is for the user: raised by this project, by the Trainer, or by the system."""
    if isinstance(error, MisconfigurationException | OSError) or _refused_by_lightning(error):
        return True
    kinds = (ValueError, TypeError, ImportError)
    if not isinstance(error, kinds) or isinstance(error, ModuleNotFoundError):
        return False
    return is_own_error(error) or is_trainer_error(error)


def is_trainer_error(error: BaseException) -> bool:
    """Return whether the Trainer raised an error about its arguments, such as the devices."""
    if isinstance(error, MisconfigurationException) or _refused_by_lightning(error):
        return True
    return any("accelerator_connector" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _refused_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself raised an error: about an option, a missing package or a metric."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    home = Path(L.__file__).parent
    return home in Path(frames[-1].filename).parents and str(frames[-1].line).startswith("raise ")

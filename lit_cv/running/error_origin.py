"""The origin of an error."""

from lit_cv.errors import OptionError

__all__ = ["is_own_error"]

_PACKAGES = ("lit_cv", "datamodules")


def is_own_error(error: BaseException) -> bool:
    """Return whether this project raised an error, rather than a library that it calls.

    Example:
        >>> is_own_error(OptionError(None, "lr", -1.0, "must be a number from 0 on")), is_own_error(ValueError())
        (True, False)
    """
    if isinstance(error, OptionError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _PACKAGES

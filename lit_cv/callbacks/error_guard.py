"""Errors that are logged instead of ending a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["guarded"]

log = logging.getLogger("lit_cv")


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Log errors in the block instead of ending the run, with a traceback unless it is an OSError.

    A failed figure must not cost hours of training.

    Args:
        what: Subject of the log message, such as "Drawing the curves".
    """
    try:
        yield
    except OSError as error:
        log.warning("%s failed; the run continues: %s.", what, " ".join(str(error).split()).rstrip("."))
    except Exception:
        log.warning("%s failed; the run continues.", what, exc_info=True)

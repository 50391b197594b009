"""This project's messages on the terminal."""

import logging
import sys
from typing import Any

__all__ = ["show_messages"]

log = logging.getLogger("lit_cv")


def show_messages() -> None:
    """Show this project's messages plainly on standard error."""
    if not log.handlers:
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is at the moment, which a live progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)

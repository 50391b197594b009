"""SIGTERM as an exception, so that a program that is told to end removes what it has not finished."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "sigterm_raises"]


class Terminated(SystemExit):
    """Ends the program with the status of a process that SIGTERM has ended."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM wherever the main thread is; a run that trains handles the signal itself.

    It is raised once: `timeout` sends the signal twice, and the second must not stop the clean-up after the first.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    told = False

    def terminate(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

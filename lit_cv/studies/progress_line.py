"""A one-line progress display for studies of many runs."""

import math
import sys
import time
from collections.abc import Callable

from lit_cv.printable import printable

__all__ = ["ProgressLine", "duration"]

_REFRESH_SECONDS = 0.25


class ProgressLine:
    """Shows the progress of the current run in one rewritten line, and prints a line for each finished run.

    Without a terminal, only the lines of finished runs are printed.

    Args:
        title: Title of the run, with its number.
        steps: Number of steps of the run.
        left: Returns the seconds left for the study, given the steps that the run has taken.
    """

    def __init__(self, title: str, steps: int, left: Callable[[int], float]) -> None:
        self.title, self.steps, self.left = printable(title, lines=False), steps, left
        self._terminal = sys.stdout.isatty()
        self._due = 0.0
        self.update(0)

    def update(self, step: int) -> None:
        """Update the number of steps taken; this is cheap between two refreshes."""
        now = time.monotonic()
        if not self._terminal or now < self._due:
            return
        self._due = now + _REFRESH_SECONDS
        left = self.left(step)
        remaining = "" if math.isnan(left) else f", {duration(left)} left"
        self._write(f"{self.title}, step {step} of {self.steps}{remaining}")

    def finish(self, result: str, seconds: float, left: float) -> None:
        """Print the line of a finished run.

        Args:
            result: Result of the run.
            seconds: Duration of the run.
            left: Seconds left for the study.
        """
        self.clear()
        remaining = f"; {duration(left)} left" if left > 0 else ""
        print(f"{self.title}: {printable(result, lines=False)} ({duration(seconds)}{remaining})", flush=True)

    def clear(self) -> None:
        """Erase the line."""
        if self._terminal:
            self._write("")

    def _write(self, text: str) -> None:
        # Line wrapping is off meanwhile: a wrapped line would not be overwritten, but repeated below itself.
        sys.stdout.write(f"\r\x1b[2K\x1b[?7l{text}\x1b[?7h")
        sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return a readable duration.

    Example:
        >>> [duration(s) for s in (4.26, 75, 4000, float("nan"))]
        ['4.3 s', '1:15 min', '1:06 h', 'an unknown time']
    """
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes}:{remainder:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"

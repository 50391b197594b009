"""One line that says how far a piece of work of many runs is."""

import math
import sys
import time
from collections.abc import Callable

from lit_cv.printable import printable

__all__ = ["ProgressLine", "duration"]

_EVERY = 0.25  # seconds between two refreshes


class ProgressLine:
    """Shows the run under way in one line that is rewritten, and leaves a line for each finished run.

    Where there is no terminal only the lasting lines are printed.

    Args:
        title: Which run of how many.
        steps: Steps that it takes.
        left: Seconds left for the whole, from the steps that the run has taken.
    """

    def __init__(self, title: str, steps: int, left: Callable[[int], float]) -> None:
        self.title, self.steps, self.left = printable(title, lines=False), steps, left
        self._terminal = sys.stdout.isatty()
        self._due = 0.0
        self.update(0)

    def update(self, step: int) -> None:
        """Take note of the steps taken; between two refreshes this costs a look at the clock."""
        now = time.monotonic()
        if not self._terminal or now < self._due:
            return
        self._due = now + _EVERY
        left = self.left(step)
        rest = "" if math.isnan(left) else f", {duration(left)} left"
        self._write(f"{self.title}, step {step} of {self.steps}{rest}")

    def finish(self, result: str, seconds: float, left: float) -> None:
        """Leave the line of a finished run.

        Args:
            result: What came out.
            seconds: How long it took.
            left: Seconds left for the whole.
        """
        self.clear()
        rest = f"; {duration(left)} left" if left > 0 else ""
        print(f"{self.title}: {printable(result, lines=False)} ({duration(seconds)}{rest})", flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            self._write("")

    def _write(self, text: str) -> None:
        # Without the terminal's wrapping: a line wider than it would be rewritten below itself again and again.
        sys.stdout.write(f"\r\x1b[2K\x1b[?7l{text}\x1b[?7h")
        sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return a time for people.

    Example:
        >>> [duration(s) for s in (4.26, 75, 4000, float("nan"))]
        ['4.3 s', '1:15 min', '1:06 h', 'an unknown time']
    """
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"

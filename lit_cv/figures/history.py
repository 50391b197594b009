"""The logged metrics of a run, as series over steps and epochs."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_cv.metrics_table import read_metrics

__all__ = ["History", "is_drawable", "short_number"]

_LARGEST = 1e100  # larger values overflow in matplotlib's axes

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


class History:
    """The rows of a `metrics.csv`.

    Epochs count from 1 here (from 0 in the file), and `epochs_at` returns fractions of epochs: the first of 100 steps
    in the first epoch ends at 0.01.

    Args:
        rows: A dict for each row, with `step`, `epoch` and the logged metrics.

    Example:
        >>> accuracies = [0.5, 0.9, 0.8]
        >>> history = History([{"epoch": e, "step": 10 * e + 9, "val_acc": accuracies[e]} for e in range(3)])
        >>> history.best("val_acc", "max")
        (0.9, 2)
    """

    def __init__(self, rows: Sequence[dict[str, float]]) -> None:
        self.rows = sorted(rows, key=lambda row: row["step"])
        names = dict.fromkeys(name for row in self.rows for name in row)
        self.names = [name for name in names if name not in ("step", "epoch")]
        self._ends = self._epoch_ends()

    @classmethod
    def read(cls, path: str | Path) -> "History":
        """Read the `metrics.csv` of a run."""
        return cls(read_metrics(path))

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the run."""
        return int(self.rows[-1]["step"]) + 1 if self.rows else 0

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return int(self._ends[1][-1]) if len(self._ends[1]) > 1 else 0

    @property
    def unit(self) -> str:
        """Unit of `epochs_at`: `epoch`, or `step` if no epoch was completed."""
        return "epoch" if self.epochs else "step"

    def series(self, name: str) -> Series:
        """Return the number of completed steps and the value for each finite value of a metric."""
        pairs = [(row["step"] + 1, row[name]) for row in self.rows if is_drawable(row.get(name, math.nan))]
        both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def epochs_at(self, steps: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Convert steps to fractional epochs, `None` if no epoch was completed."""
        ends, counts = self._ends
        if len(ends) < 2:
            return None
        slope = (counts[-1] - counts[-2]) / (ends[-1] - ends[-2])
        beyond = counts[-1] + (steps - ends[-1]) * slope
        return np.where(steps > ends[-1], beyond, np.interp(steps, ends, counts))

    def best(self, name: str, mode: str) -> tuple[float, int] | None:
        """Return the best value of a metric and the last epoch (from 1) with it, `None` if it was not logged.

        Args:
            name: The metric.
            mode: Whether smaller (`min`) or larger (`max`) values are better.
        """
        rows = [row for row in self.rows if math.isfinite(row.get(name, math.nan))]
        if not rows:
            return None
        row = (min if mode == "min" else max)(reversed(rows), key=lambda row: row[name])
        return row[name], int(row.get("epoch", 0)) + 1

    def last(self, name: str, epoch: int | None = None) -> float | None:
        """Return the last value of a metric, in the run or in one epoch (from 1)."""
        for row in reversed(self.rows):
            if name in row and epoch in (None, int(row.get("epoch", 0)) + 1):
                return row[name]
        return None

    def _epoch_ends(self) -> Series:
        """Return the steps at which epochs ended and the numbers of completed epochs, starting with (0, 0)."""
        # Training means are logged at the end of an epoch. Validation is used only without them: it may run mid-epoch.
        markers = {"train_loss"} & set(self.names) or {name for name in self.names if name.startswith("val_")}
        ends = {int(row["epoch"]) + 1: row["step"] + 1 for row in self.rows if "epoch" in row and markers & row.keys()}
        pairs = np.array([(0.0, 0.0), *((step, epoch) for epoch, step in sorted(ends.items()))])
        return pairs[:, 0], pairs[:, 1]


def is_drawable(value: float) -> bool:
    """Return whether a value is finite and not too large for an axis."""
    return math.isfinite(value) and abs(value) < _LARGEST


def short_number(value: float) -> str:
    """Format a number with four significant digits.

    Example:
        >>> [short_number(value) for value in (0.9, 12.3456, 0.00012345, 12345.6)]
        ['0.9000', '12.35', '0.0001234', '1.235e+04']
    """
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:.4g}"

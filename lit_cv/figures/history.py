"""What a run logged, as series over steps and epochs."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_cv.metrics_table import read_metrics

__all__ = ["History", "is_drawable", "short_number"]

_LARGEST = 1e100  # beyond, matplotlib's arithmetic of axes overflows

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


class History:
    """The rows of a `metrics.csv`.

    Epochs count from 1 here, as people do (the file counts from 0), and `epochs_at` gives fractions of them:
    the first step of 100 in the first epoch ends at 0.01.

    Args:
        rows: A dict for each row, with `step`, `epoch` and the metrics that were logged there.

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
        """Optimizer steps of the run."""
        return int(self.rows[-1]["step"]) + 1 if self.rows else 0

    @property
    def epochs(self) -> int:
        """Epochs that ended."""
        return int(self._ends[1][-1]) if len(self._ends[1]) > 1 else 0

    @property
    def unit(self) -> str:
        """What `epochs_at` counts, `epoch`; `step` as long as no epoch has ended."""
        return "epoch" if self.epochs else "step"

    def series(self, name: str) -> Series:
        """Return a metric's finite values, and how many steps were done when each was logged, steps first."""
        pairs = [(row["step"] + 1, row[name]) for row in self.rows if is_drawable(row.get(name, math.nan))]
        both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def epochs_at(self, steps: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return how many epochs had passed at these steps, `None` when no epoch has ended."""
        ends, counts = self._ends
        if len(ends) < 2:
            return None
        slope = (counts[-1] - counts[-2]) / (ends[-1] - ends[-2])
        beyond = counts[-1] + (steps - ends[-1]) * slope
        return np.where(steps > ends[-1], beyond, np.interp(steps, ends, counts))

    def best(self, name: str, mode: str) -> tuple[float, int] | None:
        """Return a metric's best value and the last epoch (from 1) that reached it; `None` if it never was logged.

        Args:
            name: The metric.
            mode: Whether a smaller (`min`) or greater (`max`) value is better.
        """
        rows = [row for row in self.rows if math.isfinite(row.get(name, math.nan))]
        if not rows:
            return None
        row = (min if mode == "min" else max)(reversed(rows), key=lambda row: row[name])
        return row[name], int(row.get("epoch", 0)) + 1

    def last(self, name: str, epoch: int | None = None) -> float | None:
        """Return a metric's last value, of all or of one epoch (from 1)."""
        for row in reversed(self.rows):
            if name in row and epoch in (None, int(row.get("epoch", 0)) + 1):
                return row[name]
        return None

    def _epoch_ends(self) -> Series:
        """Return the steps at which epochs ended and how many had then passed, from (0, 0) on."""
        # Means of training are logged at the end of an epoch; validation, alone, may run within one.
        signs = {"train_loss"} & set(self.names) or {name for name in self.names if name.startswith("val_")}
        ends = {int(row["epoch"]) + 1: row["step"] + 1 for row in self.rows if "epoch" in row and signs & row.keys()}
        pairs = np.array([(0.0, 0.0), *((step, epoch) for epoch, step in sorted(ends.items()))])
        return pairs[:, 0], pairs[:, 1]


def is_drawable(value: float) -> bool:
    """Return whether a value is finite, and of a size that axes take."""
    return math.isfinite(value) and abs(value) < _LARGEST


def short_number(value: float) -> str:
    """Return a number with four significant digits.

    Example:
        >>> [short_number(value) for value in (0.9, 12.3456, 0.00012345, 12345.6)]
        ['0.9000', '12.35', '0.0001234', '1.235e+04']
    """
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:.4g}"

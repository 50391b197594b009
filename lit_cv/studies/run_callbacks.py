"""What the runs of a study have besides their own callbacks."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning as L

from lit_cv.callbacks import RunCheckpoint

_FIRST = 20

__all__ = ["LastCheckpoint", "StepReport", "TrainingClock"]


class StepReport(L.Callback):
    """Tells how many optimizer steps a run has taken.

    Args:
        report: Gets the number after each batch.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Tell it."""
        self.report(trainer.global_step)


class TrainingClock(L.Callback):
    """Counts the seconds of training, features that are computed before it included, over interruptions."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None
        self._ends: list[float] = []  # of the first steps of this process

    @property
    def step_seconds(self) -> float:
        """Seconds of a step: the median of the first ones, the very first left out."""
        gaps = [after - before for before, after in itertools.pairwise(self._ends)]
        return statistics.median(gaps) if gaps else 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far; what was lost by an interruption and trained again counts once."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Take the time of the first steps."""
        if len(self._ends) < _FIRST:
            self._ends.append(time.monotonic())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop, before the last checkpoint is written."""
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the seconds of a checkpoint."""
        self._before = float(state_dict["seconds"])


class LastCheckpoint(RunCheckpoint):
    """Keeps `last.ckpt` alone, written now and then and at the end: for runs whose epochs last milliseconds.

    No best one is kept, for there is no validation to choose it by.

    Args:
        every_seconds: How often it is written, at most.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._due = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_fit_start(trainer, pl_module)
        self._due = time.monotonic() + self.every_seconds

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, between two optimizer steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        between = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if between and time.monotonic() > self._due:
            self._save_last(trainer)
            self._due = time.monotonic() + self.every_seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end."""
        self._save_last(trainer)

    def _save(self, trainer: L.Trainer, last: bool = True) -> None:
        """Save nothing at the end of an epoch, unless the run is being stopped there."""
        if self.signals.received:
            self._save_last(trainer)

"""Callbacks that a study adds to its runs."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning as L

from lit_cv.callbacks import RunCheckpoint

_TIMED_STEPS = 20

__all__ = ["LastCheckpoint", "StepReport", "TrainingClock"]


class StepReport(L.Callback):
    """Reports the number of optimizer steps of a run.

    Args:
        report: Called with the number after each batch.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Report the number of steps."""
        self.report(trainer.global_step)


class TrainingClock(L.Callback):
    """Measures the seconds of training, including features computed before it, across interruptions."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None
        self._ends: list[float] = []  # times at the end of the first steps of this process

    @property
    def step_seconds(self) -> float:
        """Median seconds per step over the first steps, without the very first."""
        gaps = [after - before for before, after in itertools.pairwise(self._ends)]
        return statistics.median(gaps) if gaps else 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far; steps that an interruption lost and that ran again count once."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Record the end of the first steps."""
        if len(self._ends) < _TIMED_STEPS:
            self._ends.append(time.monotonic())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock before the last checkpoint is written."""
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the seconds of a checkpoint."""
        self._before = float(state_dict["seconds"])


class LastCheckpoint(RunCheckpoint):
    """Keeps only `last.ckpt`, written at intervals and at the end, for runs with epochs of milliseconds.

    It keeps no best checkpoint, since these runs have no validation.

    Args:
        every_seconds: Minimum interval between two checkpoints.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._due = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the interval."""
        super().on_fit_start(trainer, pl_module)
        self._due = time.monotonic() + self.every_seconds

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimizer step if the interval has passed."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if step_done and time.monotonic() > self._due:
            self._save_last(trainer)
            self._due = time.monotonic() + self.every_seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state."""
        self._save_last(trainer)

    def _save(self, trainer: L.Trainer, last: bool = True) -> None:
        """Save at the end of an epoch only if a signal is stopping the run."""
        if self.signals.received:
            self._save_last(trainer)

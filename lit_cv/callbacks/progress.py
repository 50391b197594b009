"""A cheap progress bar, and one line per epoch."""

import io
import math
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console, reconfigure
from rich.console import Console
from rich.text import Text
from torch import Tensor

from lit_cv.callbacks.monitored import is_better, monitor_and_mode
from lit_cv.contracts import as_module
from lit_cv.errors import OptionError
from lit_cv.figures import short_number
from lit_cv.notebooks import InlineText, in_notebook

__all__ = ["RunProgressBar"]

_INLINE_WIDTH = 100  # characters of the bar in a notebook


class RunProgressBar(RichProgressBar):
    """Lightning's rich progress bar, refreshed at a fixed rate, with one permanent line per epoch.

    The bar shows the loss and the module's `displayed` metric or its `monitor`. Between two refreshes a step only reads
    the clock, so that steps of a few milliseconds are not slowed down. Each finished epoch prints a line with its
    training loss, this metric and the seconds it took. The line ends with `best` if the `monitor` is better than ever
    before, or with `best, again` if it equals the best, in which case the later checkpoint is kept. Without a terminal
    (a log file, continuous integration) only these lines are printed. In a notebook the bar is a text below the cell
    that is replaced at each refresh and removed at the end.

    Args:
        refreshes_per_second: Maximum number of refreshes per second.
    """

    def __init__(self, refreshes_per_second: int = 5) -> None:
        if refreshes_per_second < 1:
            raise OptionError(self, "refreshes_per_second", refreshes_per_second, "must be at least 1")
        super().__init__(refresh_rate=refreshes_per_second)
        self._due = 0.0
        self._finished: int | None = None  # epoch whose line is not printed yet
        self._epoch_start = 0.0
        self._monitored: float | None = None  # value of the current epoch
        self._shown: dict[str, int | str | float | dict[str, float]] = {}
        self._best: float | None = None
        self._mark = ""
        self._terminal = False
        self._inline: InlineText | None = None  # the bar of a notebook
        self._inline_due = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is drawn, which requires a terminal or a notebook."""
        return super().is_enabled and (self._terminal or self._inline is not None)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out whether the output goes to a terminal or a notebook."""
        super().setup(trainer, pl_module, stage)
        if in_notebook() and trainer.is_global_zero:
            # Without this, rich prints tables as HTML beside a text with terminal control codes.
            self._console_kwargs = {"force_jupyter": False, "force_terminal": False}
            reconfigure(**self._console_kwargs)
            self._inline = self._inline or InlineText()
        console = get_console()
        # FORCE_COLOR makes rich see a terminal in a log file.
        self._terminal = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()

    def refresh(self, hard: bool = False) -> None:
        """Draw the bar."""
        if self._inline is None:
            super().refresh(hard)
        elif self.progress is not None and time.monotonic() >= self._inline_due:
            page = Console(file=io.StringIO(), width=_INLINE_WIDTH, color_system=None, force_jupyter=False)
            with page.capture() as drawn:
                page.print(self.progress.get_renderable())
            if text := drawn.get().rstrip():
                self._inline_due = time.monotonic() + 1 / self.refresh_rate
                self._inline.show(text)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics shown beside the bar: the loss of a recent step and the monitored metric."""
        return self._shown

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first epoch."""
        super().on_train_start(trainer, pl_module)
        self._finished, self._epoch_start = None, time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line of the previous epoch, whose metrics are now complete."""
        self._print_epoch(trainer, pl_module)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar if a refresh is due."""
        if not self._is_due(batch_idx + 1, self.total_train_batches):
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._shown = {"loss": "", **self._shown, **{"loss": short_number(loss.item())}}
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the epoch as finished."""
        super().on_train_epoch_end(trainer, pl_module)
        self._finished = trainer.current_epoch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the displayed metric."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            monitor, mode = monitor_and_mode(trainer, pl_module)
            name = as_module(pl_module).displayed or monitor
            value = trainer.callback_metrics.get(name) if name else None
            if name is not None and value is not None:
                self._monitored = float(value)
                if name == monitor:
                    self._judge(self._monitored, mode)  # before the checkpoint of this epoch is written
                self._shown = {**self._shown, name: short_number(self._monitored)}
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit":
            self._stop_progress()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line of the last epoch, and remove the bar before other output."""
        super().on_train_end(trainer, pl_module)
        self._print_epoch(trainer, pl_module)
        self._stop_progress()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        super().on_test_end(trainer, pl_module)
        self._stop_progress()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        super().on_predict_end(trainer, pl_module)
        self._stop_progress()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of the monitored metric so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self._best = state_dict["best"]

    def _judge(self, value: float, mode: str) -> None:
        better = is_better(value, self._best, mode)
        self._mark = "" if not better else "best, again" if value == self._best else "best"
        if better:
            self._best = value

    def _is_due(self, current: int, total: float) -> bool:
        if self.is_disabled:
            return False
        now = time.monotonic()
        if now < self._due and current != total:
            return False
        self._due = now + 1 / self.refresh_rate
        return True

    def _update(self, progress_bar_id: Any, current: int, visible: bool = True, hard: bool = False) -> None:
        """Update a bar of validation, test or prediction if a refresh is due."""
        if self.progress is None or progress_bar_id is None:
            return
        training = progress_bar_id == self.train_progress_bar_id  # its caller has checked the time already
        if training or self._is_due(current, self.progress._tasks[progress_bar_id].total or math.inf):
            super()._update(progress_bar_id, current, visible, hard)

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True  # remove the bar at the end, keep the printed lines

    def _stop_progress(self) -> None:
        if self._inline is None or self.progress is None:
            super()._stop_progress()
            return
        self.progress.console.quiet = True  # rich would print an empty line
        super()._stop_progress()
        self.progress.console.quiet = False
        self._inline.clear()

    def _get_train_description(self, current_epoch: int) -> str:
        return _epoch_name(current_epoch, self.trainer.max_epochs)

    def _print_epoch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line of the epoch that has just ended, on rank 0."""
        epoch, self._finished = self._finished, None
        if epoch is None or not self._enabled:
            return
        monitor, mode = monitor_and_mode(trainer, pl_module)
        metrics = trainer.callback_metrics
        parts = [_epoch_name(epoch, trainer.max_epochs)]
        if "train_loss" in metrics:
            parts.append(f"train_loss {short_number(float(metrics['train_loss']))}")
        value, self._monitored = self._monitored, None
        if value is None and monitor in metrics and monitor is not None and monitor.startswith("train_"):
            value = float(metrics[monitor])
            self._judge(value, mode)
        if value is not None and monitor != "train_loss":
            parts.append(f"{as_module(pl_module).displayed or monitor} {short_number(value)}")
        mark = self._mark if value is not None else ""
        now = time.monotonic()
        seconds, self._epoch_start = now - self._epoch_start, now
        parts.append(f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s")
        line = "  ".join([*parts, mark] if mark else parts)
        if self.is_enabled and self.progress is not None:
            self.progress.console.print(Text(line, style="bold" if mark == "best" else ""), soft_wrap=True)
        else:
            print(line, flush=True)


def _epoch_name(epoch: int, max_epochs: int | None) -> str:
    if not max_epochs or max_epochs < 0:
        return f"epoch {epoch + 1}"
    return f"epoch {epoch + 1:>{len(str(max_epochs))}}/{max_epochs}"

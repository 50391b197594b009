"""Early stopping on the module's monitored metric."""

import logging
import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping

from lit_cv.callbacks.monitored import mode_of, monitor_and_mode, monitored_value
from lit_cv.errors import OptionError, argument

__all__ = ["MonitorEarlyStopping"]

log = logging.getLogger("lit_cv")


class MonitorEarlyStopping(EarlyStopping):
    """Lightning's EarlyStopping on the metric that selects the best checkpoint.

    Args:
        patience: Number of validations without improvement after which training stops; `None` disables early stopping.
        min_delta: Minimum change of the metric that counts as an improvement.
        monitor: Metric to monitor; `None` uses the metric of the checkpoints, by default that of the module.
        mode: Whether a smaller (`min`) or greater (`max`) value is better; `None` uses the mode of the checkpoints, or
            infers it from the name of another metric.
    """

    def __init__(
        self,
        patience: int | None = None,
        min_delta: float = 0.0,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise OptionError(self, "patience", patience, "must be at least 1; leave it out for no early stopping")
        if patience is None and (monitor or mode):
            needed = argument("patience", self)
            log.warning("Early stopping is off: its metric and mode have no effect without %s.", needed)
        super().__init__(monitor or "", min_delta=abs(min_delta), patience=patience or 0, mode=mode or "min")
        self.enabled = patience is not None
        self._user_monitor = monitor
        self._user_mode = mode
        self._restored: tuple[Any, Any] | None = None

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint. It does not contain the metric, which the data may determine."""
        return type(self).__qualname__

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the metric that selects the best checkpoint."""
        monitor, mode = monitor_and_mode(trainer, pl_module)
        if self._user_monitor is None:
            self.monitor = monitor or "val_loss"
        elif self._user_monitor != monitor and self._user_mode is None:
            mode = mode_of(self._user_monitor, pl_module, self)
        self.mode = str(self._user_mode or mode)
        sign = 1 if self.mode == "max" else -1
        self.min_delta = sign * abs(self.min_delta)
        if self._restored not in (None, (self.monitor, self.mode)):
            self.best_score, self.wait_count = torch.tensor(math.inf), 0  # the restored ones belong to another metric
        self._restored = None
        if not self.best_score.isfinite():  # no score yet, neither here nor in the resumed checkpoint
            self.best_score = torch.tensor(-sign * math.inf)

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        if monitored_value(trainer, self.monitor) is not None:
            super()._run_early_stopping_check(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the best score, and its metric and mode."""
        return {**super().state_dict(), "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count and the best score; keep the patience of this run."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        if "monitor" in state_dict:
            self._restored = state_dict["monitor"], state_dict.get("mode")

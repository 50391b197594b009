"""Logging of the learning rate that each step uses."""

import math
from typing import Any

import lightning as L

from lit_cv.errors import OptionError
from lit_cv.loop_state import is_logging_step, step_index

__all__ = ["LearningRateLog"]


class LearningRateLog(L.Callback):
    """Logs the learning rate as `lr`, read from the optimizer just before its step.

    This is the learning rate of the first parameter group. Groups with another learning rate are logged as `lr_NAME`.
    If groups belong to layers, as in fine-tuning, the learning rate of every layer is logged this way. If an epoch has
    few steps, the Trainer's `log_every_n_steps` is lowered so that each epoch is logged several times.

    Args:
        per_epoch: Minimum number of log entries per epoch, if it has that many steps.
    """

    def __init__(self, per_epoch: int = 5) -> None:
        if per_epoch < 1:
            raise OptionError(self, "per_epoch", per_epoch, "must be at least 1")
        self.per_epoch = per_epoch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adapt the logging interval to the length of the epoch."""
        if math.isinf(trainer.num_training_batches):
            return
        steps = int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        interval = max(1, min(trainer.log_every_n_steps, steps // self.per_epoch))  # type: ignore[attr-defined]
        trainer.log_every_n_steps = interval  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the learning rates if the Trainer logs this step."""
        if not is_logging_step(trainer) or not trainer.optimizers:
            return
        groups = trainer.optimizers[0].param_groups
        values = {"lr": groups[0]["lr"]}
        for index, group in enumerate(groups):
            if "layer" in group or group["lr"] != values["lr"]:
                name = group.get("layer") or group.get("name", index)
                values[f"lr_{name}".replace(".", "_")] = group["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step_index(trainer))

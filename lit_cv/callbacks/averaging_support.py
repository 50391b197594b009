"""Support for StochasticWeightAveraging: networks that are built late, and resuming within an epoch."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging

__all__ = ["AveragingSupport"]


class AveragingSupport(L.Callback):
    """Makes StochasticWeightAveraging work with this project's networks and with exact resume.

    Lightning's callback copies the module before `configure_model` has built the networks, so it would average nothing.
    It sets its schedule up at the start of an epoch. A run that resumes within an epoch skips that, and doing it later
    changes the learning rates restored from the checkpoint.

    Args:
        averaging: The callback to support, listed after this one.
    """

    def __init__(self, averaging: StochasticWeightAveraging) -> None:
        self._averaging = averaging
        self._resumed = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Build the networks before they are copied."""
        if stage == "fit":
            pl_module.configure_model()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set up the schedule again in a run that resumes after averaging has started."""
        averaging = self._averaging
        begun = averaging._scheduler_state is not None and not averaging._initialized
        if not begun or not averaging.swa_start <= trainer.current_epoch <= averaging.swa_end:
            return
        groups = trainer.optimizers[0].param_groups
        lrs = [group["lr"] for group in groups]
        averaging.on_train_epoch_start(trainer, pl_module)
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = lr
        self._resumed = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the averaging learning rate as the schedule's initial one, which the module has overwritten."""
        if self._resumed:
            for group, lr in zip(trainer.optimizers[0].param_groups, self._averaging._swa_lrs, strict=True):  # type: ignore[arg-type]
                group["initial_lr"] = lr
            self._resumed = False

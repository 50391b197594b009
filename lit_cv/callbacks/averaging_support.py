"""What Lightning's StochasticWeightAveraging needs for networks that are built late, and to resume within an epoch."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging

__all__ = ["AveragingSupport"]


class AveragingSupport(L.Callback):
    """Lets StochasticWeightAveraging average this project's networks, and resume exactly wherever it was stopped.

    That callback copies the module before `configure_model` has built the networks, and would average nothing. Its
    schedule is set up when an epoch starts, which a run that goes on within an epoch never does, and setting it up
    changes the learning rates that the checkpoint holds.

    Args:
        averaging: The callback, which must come after this one.
    """

    def __init__(self, averaging: StochasticWeightAveraging) -> None:
        self._averaging = averaging
        self._resumed = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Build the networks before they are copied."""
        if stage == "fit":
            pl_module.configure_model()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the schedule up again in a run that goes on after averaging had begun."""
        averaging = self._averaging
        begun = averaging._scheduler_state is not None and not averaging._initialized
        if not begun or not averaging.swa_start <= trainer.current_epoch <= averaging.swa_end:
            return
        groups = trainer.optimizers[0].param_groups
        rates = [group["lr"] for group in groups]
        averaging.on_train_epoch_start(trainer, pl_module)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self._resumed = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Name the rate of the averaging again as that which the schedule starts from: the module has put its own."""
        if self._resumed:
            for group, rate in zip(trainer.optimizers[0].param_groups, self._averaging._swa_lrs, strict=True):  # type: ignore[arg-type]
                group["initial_lr"] = rate
            self._resumed = False

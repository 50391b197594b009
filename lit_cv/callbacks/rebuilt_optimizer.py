"""The optimizer and its schedule, for the learning rate and the batch size that Lightning's finders have found."""

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

__all__ = ["RebuiltOptimizer"]


class RebuiltOptimizer(L.Callback):
    """Builds the optimizer and its schedule anew after LearningRateFinder or BatchSizeFinder has run.

    The schedule was made before: its first step would replace the rate that was found, and with another batch size an
    epoch has another number of steps.

    Args:
        finder: The callback, which must come before this one.
    """

    def __init__(self, finder: LearningRateFinder | BatchSizeFinder) -> None:
        self._finder = finder

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Build them, unless what was found is only to be reported."""
        if isinstance(self._finder, BatchSizeFinder) or self._finder._update_attr:
            trainer.strategy.setup_optimizers(trainer)

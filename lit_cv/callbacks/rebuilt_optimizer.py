"""Rebuilding of the optimizer after Lightning's learning rate and batch size finders."""

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

__all__ = ["RebuiltOptimizer"]


class RebuiltOptimizer(L.Callback):
    """Rebuilds the optimizer and its schedule after LearningRateFinder or BatchSizeFinder has run.

    The schedule is built before: its first step would overwrite the new learning rate, and a new batch size changes
    the number of steps per epoch.

    Args:
        finder: The finder callback, listed before this one.
    """

    def __init__(self, finder: LearningRateFinder | BatchSizeFinder) -> None:
        self._finder = finder

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rebuild both, unless the finder only reports its result."""
        if isinstance(self._finder, BatchSizeFinder) or self._finder._update_attr:
            trainer.strategy.setup_optimizers(trainer)

"""Callbacks of Lightning's that users give, and what they need to work with this project's modules and runs."""

import logging
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging

from lit_cv.callbacks.averaging_support import AveragingSupport
from lit_cv.callbacks.rebuilt_optimizer import RebuiltOptimizer

__all__ = ["with_support"]

log = logging.getLogger("lit_cv")


def with_support(given: Sequence[L.Callback], continues: bool) -> list[L.Callback]:
    """Return callbacks with those that some of them need beside them.

    Args:
        given: The callbacks of the Trainer.
        continues: Whether the run continues from a checkpoint, with the learning rate and the batch size that were
            found when it began: they are not looked for again.
    """
    supported: list[L.Callback] = []
    for callback in given:
        if continues and isinstance(callback, LearningRateFinder | BatchSizeFinder):
            log.info("%s does not run again: the run continues with what it found.", type(callback).__name__)
            continue
        if isinstance(callback, StochasticWeightAveraging):
            supported.append(AveragingSupport(callback))
        supported.append(callback)
        if isinstance(callback, LearningRateFinder | BatchSizeFinder):
            supported.append(RebuiltOptimizer(callback))
    return supported

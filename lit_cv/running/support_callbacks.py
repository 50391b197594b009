"""Helper callbacks that some of Lightning's callbacks need in this project's runs."""

import logging
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging

from lit_cv.callbacks.averaging_support import AveragingSupport
from lit_cv.callbacks.rebuilt_optimizer import RebuiltOptimizer

__all__ = ["add_support_callbacks"]

log = logging.getLogger("lit_cv")


def add_support_callbacks(user_callbacks: Sequence[L.Callback], continues: bool) -> list[L.Callback]:
    """Add the helper callbacks that Lightning's callbacks need.

    Args:
        user_callbacks: The callbacks that the user has set.
        continues: Whether the run resumes from a checkpoint. It keeps the learning rate and batch size that it
            started with, so the finders do not run again.
    """
    supported: list[L.Callback] = []
    for callback in user_callbacks:
        if continues and isinstance(callback, LearningRateFinder | BatchSizeFinder):
            log.info("%s does not run again: the resumed run keeps its result.", type(callback).__name__)
            continue
        if isinstance(callback, StochasticWeightAveraging):
            supported.append(AveragingSupport(callback))
        supported.append(callback)
        if isinstance(callback, LearningRateFinder | BatchSizeFinder):
            supported.append(RebuiltOptimizer(callback))
    return supported

"""Cutout."""

from typing import Any

import lightning as L

from lit_cv.augment import Chain
from lit_cv.augment import Cutout as CutoutOperation
from lit_cv.callbacks.augmentation import augment, unviewed_batches

__all__ = ["Cutout"]


class Cutout(L.Callback):
    """Erases a square at a random position of each training image, clipped at the border.

    DeVries & Taylor, 2017. Equivalent to the operation `cutout` at the end of `Augmentation`'s list.

    Args:
        size: Side of the square: an integer number of pixels, or a fraction below 1 of the image's shorter side.
        value: Fill value, 0 (black) to 1 (white); 0.5 is near the mean of most images.
        p: Probability that a square of a sample is erased.

    Raises:
        TypeError: In training, if a batch is not a dict with "image".
    """

    changes_images = True  # so features cannot be cached

    def __init__(self, size: int | float = 0.5, value: float = 0.5, p: float = 1.0) -> None:
        self.chain = Chain([CutoutOperation(size, value, p)])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Erase squares in the images of the batch, or of the batches nested in it."""
        for part in unviewed_batches(batch, "Cutout"):
            augment(self.chain, part)

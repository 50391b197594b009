"""Cutout."""

from typing import Any

import lightning as L

from lit_cv.augment import Chain
from lit_cv.augment import Cutout as CutoutOperation
from lit_cv.callbacks.augmentation import augment, unviewed_batches

__all__ = ["Cutout"]


class Cutout(L.Callback):
    """Erases a square of each training image, its centre anywhere, clipped at the edges.

    DeVries & Taylor, 2017. The same as the operation `cutout` at the end of `Augmentation`'s list.

    Args:
        size: Side of the square: a whole number of pixels, or a fraction of the image's shorter side below 1.
        value: What it is filled with, 0 (black) to 1 (white); 0.5 is near the mean of most images.
        p: Chance of a sample to lose a square.

    Raises:
        TypeError: In training, if a batch is no dict with "image".
    """

    changes_images = True  # hence features of images cannot be kept

    def __init__(self, size: int | float = 0.5, value: float = 0.5, p: float = 1.0) -> None:
        self.chain = Chain([CutoutOperation(size, value, p)])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Replace the batch's images, and those of the batches within it."""
        for part in unviewed_batches(batch, "Cutout"):
            augment(self.chain, part)

"""Smaller training images at first."""

from typing import Any

import lightning as L
import torch.nn.functional as F

from lit_cv.callbacks.augmentation import unviewed_batches
from lit_cv.errors import OptionError

__all__ = ["ProgressiveResizing"]


class ProgressiveResizing(L.Callback):
    """Shrinks training images at first, and lets them grow to full size in the course of training.

    Small images take less time, and early epochs need no details (Touvron et al. 2019, "Fixing the train-test
    resolution discrepancy", and Karras et al. 2018 for growing images). The size grows linearly from epoch to epoch.
    List this callback after augmentations, so that they see full images. It needs a network for images of any size,
    which vision transformers are not.

    Args:
        start: Side of the images in the first epoch, as a share of the full side.
        until: Share of the epochs after which images have full size.
        multiple: Sides are rounded to multiples of this number of pixels.

    Raises:
        ValueError: If a value is out of range.
        TypeError: In training, if batches have masks or boxes.

    Example:
        >>> resizing = ProgressiveResizing(start=0.5, until=0.5)
        >>> [resizing.side(32, epoch, epochs=8) for epoch in range(8)]
        [16, 20, 24, 28, 32, 32, 32, 32]
    """

    changes_images = True  # so features cannot be cached

    def __init__(self, start: float = 0.75, until: float = 0.6, multiple: int = 4) -> None:
        for name, value in (("start", start), ("until", until)):
            if not 0 < value <= 1:
                raise OptionError(self, name, value, "must be a number above 0 and at most 1")
        if multiple < 1:
            raise OptionError(self, "multiple", multiple, "must be at least 1")
        self.start, self.until, self.multiple = start, until, multiple

    def side(self, full: int, epoch: int, epochs: int) -> int:
        """Return the side in pixels of images with the full side `full` in an epoch, counted from 0."""
        share = self.start + (1 - self.start) * min(1.0, epoch / (self.until * epochs))
        return min(full, max(self.multiple, round(full * share / self.multiple) * self.multiple))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Shrink the images of the batch, or of the batches nested in it."""
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else trainer.current_epoch + 1
        for part in unviewed_batches(batch, "ProgressiveResizing"):
            if "mask" in part or "boxes" in part:
                raise TypeError("ProgressiveResizing got a batch with masks or boxes, which it does not resize.")
            images = part["image"]
            size = [self.side(full, trainer.current_epoch, epochs) for full in images.shape[-2:]]
            if size != list(images.shape[-2:]):
                part["image"] = F.interpolate(images, size, mode="bilinear", antialias=True)

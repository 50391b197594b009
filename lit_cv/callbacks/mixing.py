"""What CutMix and MixUp share: their chance, their end, and the labels."""

from abc import abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import mix_labels, soft_labels
from lit_cv.callbacks.augmentation import image_batches
from lit_cv.contracts import module_extras
from lit_cv.errors import OptionError

__all__ = ["MixingCallback"]


class MixingCallback(L.Callback):
    """Mixes each sample of a training batch with the one before it, and their labels alike.

    Labels become float weights (N, num_classes), num_classes being the module's. Label smoothing stays the
    loss's business. A sample is mixed at most once: where several such callbacks are listed, each takes its
    chance on the samples that those before it left alone.

    Args:
        alpha: Parameter of Beta(alpha, alpha), that weights are drawn from; above 0.
        p: Chance of a sample to be mixed.
        stop_epoch: When mixing ends: an epoch, counted from 0, or a fraction of training, up to 1.0; None for
            never.
    """

    changes_images = True  # hence features of images cannot be kept

    def __init__(self, alpha: float, p: float, stop_epoch: int | float | None) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
            raise OptionError(self, "alpha", alpha, "give a number above 0")
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise OptionError(self, "p", p, "give a chance from 0 to 1")
        if stop_epoch is not None and (stop_epoch < 0 or (isinstance(stop_epoch, float) and stop_epoch > 1)):
            raise OptionError(
                self, "stop_epoch", stop_epoch, "give an epoch from 0 on, or a fraction of training up to 1.0"
            )
        self.alpha = float(alpha)
        self.p = float(p)
        self.stop_epoch = stop_epoch

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Replace the batch's images and labels."""
        name = type(self).__name__
        next(image_batches(batch, name))
        if "image" not in batch or not isinstance(batch.get("label"), Tensor):
            raise TypeError(f"{name} mixes labels too, but the batch has no tensor 'label': leave {name} out.")
        for key in ("mask", "boxes"):
            if key in batch:
                raise TypeError(f"{name} cannot mix the batch's entry {key!r}: leave {name} out.")
        num_classes = module_extras(pl_module).num_classes
        if not isinstance(num_classes, int):
            raise TypeError(f"{name} needs the number of classes, but {type(pl_module).__name__} has no num_classes.")
        labels = soft_labels(batch["label"], num_classes)
        if not self._is_over(trainer):
            free = torch.rand(len(labels)) < self.p
            free &= ~batch.get("mixed", torch.zeros_like(free))
            batch["image"], weight = self._mix(batch["image"], free)
            labels = mix_labels(labels, weight)
            batch["mixed"] = free | batch.get("mixed", free)
        batch["label"] = labels

    def _is_over(self, trainer: L.Trainer) -> bool:
        if self.stop_epoch is None:
            return False
        if isinstance(self.stop_epoch, int):
            return trainer.current_epoch >= self.stop_epoch
        return trainer.global_step >= self.stop_epoch * trainer.estimated_stepping_batches

    @abstractmethod
    def _mix(self, images: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with the `free` samples mixed, and the weight of each sample's own label."""

"""Base of CutMix and MixUp: probability, stop epoch and label mixing."""

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
    """Mixes each sample of a training batch with the previous one, including their labels.

    Labels become float weights (N, num_classes), with the module's num_classes. Label smoothing is left to the loss. A
    sample is mixed at most once: if several of these callbacks are listed, each one draws among the samples that the
    previous ones did not mix.

    Args:
        alpha: Parameter of Beta(alpha, alpha), from which weights are drawn; above 0.
        p: Probability that a sample is mixed.
        stop_epoch: When mixing stops: an epoch, counted from 0, or a fraction of training, up to 1.0; None for
            never.
    """

    changes_images = True  # so features cannot be cached

    def __init__(self, alpha: float, p: float, stop_epoch: int | float | None) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
            raise OptionError(self, "alpha", alpha, "must be a number above 0")
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise OptionError(self, "p", p, "must be a probability from 0 to 1")
        if stop_epoch is not None and (stop_epoch < 0 or (isinstance(stop_epoch, float) and stop_epoch > 1)):
            raise OptionError(
                self, "stop_epoch", stop_epoch, "must be an epoch (at least 0), or a fraction of training up to 1.0"
            )
        self.alpha = float(alpha)
        self.p = float(p)
        self.stop_epoch = stop_epoch

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the images and labels of the batch."""
        name = type(self).__name__
        next(image_batches(batch, name))
        if "image" not in batch or not isinstance(batch.get("label"), Tensor):
            raise TypeError(f"the batch has no tensor 'label', which {name} mixes: leave {name} out.")
        for key in ("mask", "boxes"):
            if key in batch:
                raise TypeError(f"{name} cannot mix the batch's entry {key!r}: leave {name} out.")
        num_classes = module_extras(pl_module).num_classes
        if not isinstance(num_classes, int):
            raise TypeError(f"{type(pl_module).__name__} has no num_classes, which {name} needs: leave {name} out.")
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
        """Return the images with the `free` samples mixed, and the weight of each sample's original label."""

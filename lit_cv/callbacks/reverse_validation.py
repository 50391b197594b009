"""Choice of adapted networks by what their predictions teach another network."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lit_cv.contracts import as_module, data_extras, datamodule_of
from lit_cv.errors import OptionError
from lit_cv.metrics import reverse_validation

__all__ = ["ReverseValidation"]

_MONITOR = "val_reverse_score"


class ReverseValidation(L.Callback):
    """Logs at each validation what a new network learns from the predictions for target images, and chooses by it.

    It logs `val_reverse_acc`, the accuracy on the source of a small network that was trained on the predictions for
    target images alone, and `val_reverse_agreement`, how often that network agrees on target images that it did not
    learn from (`lit_cv.metrics.reverse_validation`). Their mean, `val_reverse_score`, becomes the `monitor` of modules
    whose monitor is `val_score`. It is rounded to 0.01, about its standard error with 1,000 images, since smaller
    differences mean nothing; of equal scores the latest one is the best. Unlike `val_score` it does not rise with
    confidence alone, so that it can also compare methods of adaptation, and adaptation with the source alone; it is no
    accuracy either. It takes some seconds for each validation, and needs a `DomainAdaptationDataModule` with validation
    images of the source; with other data it does nothing.

    Args:
        steps: Optimizer steps of the small network.
        max_images: Maximum number of target images, and of source images.

    Attributes:
        metrics: Names of the logged metrics.
    """

    metrics = ("val_reverse_acc", "val_reverse_agreement", _MONITOR)

    def __init__(self, steps: int = 300, max_images: int = 2000) -> None:
        for name, value in (("steps", steps), ("max_images", max_images)):
            if value < 2:
                raise OptionError(self, name, value, "must be at least 2")
        self.steps, self.max_images = steps, max_images

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Become the module's monitor."""
        if self._source(trainer) is not None and as_module(pl_module).monitor == "val_score":
            pl_module.monitor = _MONITOR  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train the small network, and log its scores."""
        source_images = self._source(trainer)
        if trainer.sanity_checking or source_images is None:
            return
        data: Any = datamodule_of(trainer)
        with torch.inference_mode(False):
            source = self._images(source_images)
            target = self._images(data.unlabeled_dataset)
            labels = source["label"].to(pl_module.device)
            known = labels >= 0
            images = source["image"].to(pl_module.device)[known]
            if len(target["image"]) < 2 or not len(images):
                return
            predictions, moved = self._predict(pl_module, target["image"], data.batch_size)
            scores = reverse_validation(moved, predictions, images, labels[known], data.num_classes, self.steps)
        # All ranks compute the same, up to rounding, which must not let them choose differently.
        accuracy, agreement = trainer.strategy.broadcast(tuple(map(float, scores)))
        values = (accuracy, agreement, round((accuracy + agreement) / 2, 2))
        pl_module.log_dict(dict(zip(self.metrics, values, strict=True)))

    def _source(self, trainer: L.Trainer) -> Any:
        return data_extras(datamodule_of(trainer)).source_val_dataset

    def _images(self, dataset: Any) -> dict[str, Tensor]:
        rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), self.max_images)).astype(np.int64))
        images: dict[str, Tensor] = dataset.__getitems__(rows.tolist())
        return images

    @torch.no_grad()
    def _predict(self, module: Any, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        images = images.to(module.device)
        return torch.cat([module(part).argmax(1) for part in torch.split(images, batch_size)]), images

r"""A callback of your own: the accuracy of the worst class, logged after each validation and kept in checkpoints.

The command, from this folder (`file.Class` names the class):

    lit-cv fit --config supervised --trainer.callbacks+=own_callback.WorstClass --trainer.max_epochs 5 \
        --checkpoint.monitor val_worst_acc --checkpoint.mode max

It works with every module whose step returns `logits` and `target`. A callback may also change a training batch, as
augmentation does: replace `batch["image"]` in `on_train_batch_start`, which runs on the device.
"""

from typing import Any

import lightning as L
import torch


class WorstClass(L.Callback):
    """Logs `val_worst_acc`, the lowest accuracy of a class, and remembers the best such value.

    Args:
        min_images: Number of validation images that a class needs to count.
    """

    def __init__(self, min_images: int = 1) -> None:
        self.min_images = min_images
        self.best = 0.0

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        classes = trainer.datamodule.num_classes  # type: ignore[attr-defined]
        self.counts = torch.zeros(2, classes, device=pl_module.device)  # images, correct ones

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        known = outputs["target"] >= 0
        target, predicted = outputs["target"][known], outputs["logits"][known].argmax(1)
        correct = (predicted == target).float()
        self.counts[0].index_add_(0, target, torch.ones_like(correct))
        self.counts[1].index_add_(0, target, correct)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        images, correct = trainer.strategy.reduce(self.counts, reduce_op="sum")  # over all devices
        worst = (correct / images)[images >= self.min_images].min()
        if not trainer.sanity_checking:
            self.best = max(self.best, float(worst))
        pl_module.log("val_worst_acc", worst)

    def state_dict(self) -> dict[str, Any]:  # in checkpoints, so that a resumed run continues with it
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

r"""A learning approach of your own: features from unlabeled images, by predicting how far an image was rotated.

The command, from this folder (`file.Class` names the class):

    lit-cv fit --model own_approach.RotationModule --data DigitsDataModule --model.backbone resnet9_small \
        --trainer.max_epochs 5

`val_acc` is the accuracy of the rotation (chance: 0.25), `val_knn_acc` that of the digit, by the nearest neighbors of
its features; no label is used in training. All options, checkpoints, figures and exact resume come from `BaseModule`.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_cv import BaseModule
from lit_cv.contracts import Batch, Output, Stage


class RotationModule(BaseModule):
    """Learns a backbone from unlabeled square images by predicting their rotation (Gidaris et al. 2018).

    Args:
        turns: Number of rotations to distinguish, from 2 to 4 quarter turns.
        **kwargs: Arguments of `BaseModule`.
    """

    monitor: str | None = "val_acc"
    mode: Literal["min", "max"] = "max"
    uses_unlabeled: ClassVar[bool] = True  # trains on images with hidden labels, too
    evaluates_embedding: ClassVar[bool] = True  # logs val_knn_acc

    def __init__(self, turns: int = 4, **kwargs: Any) -> None:  # plain values only, so that checkpoints load safely
        super().__init__(**kwargs)

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, self.hparams["turns"])

    def configure_metrics(self) -> dict[str, Metric]:
        return {"acc": MulticlassAccuracy(self.hparams["turns"], average="micro")}

    def step(self, batch: Batch, stage: Stage) -> Output:
        images, turns = batch["image"], self.hparams["turns"]
        rotated = torch.cat([images.rot90(turn, (2, 3)) for turn in range(turns)])
        target = torch.arange(turns, device=images.device).repeat_interleave(len(images))
        logits = self(rotated)
        return {"loss": F.cross_entropy(logits, target), "logits": logits, "target": target, "images": rotated}

"""Tasks whose answers are the classes of pixels."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.losses import dice_loss, pixel_cross_entropy
from lit_cv.losses.segmentation import IGNORE_INDEX
from lit_cv.metrics import SegmentationIoU
from lit_cv.nn import Backbone
from lit_cv.nn.segmentation import SegmentationHead, build_segmenter, default_stride
from lit_cv.tasks.base_task import BaseTask, Features, TaskLoss

__all__ = ["SegmentationTask"]


class SegmentationTask(BaseTask):
    """Tells the class of every pixel, by cross-entropy and Dice loss.

    The target is (N, H, W) int64, classes from 0, and 255 where the class is unknown; an image of nothing else has no
    target. Losses and metrics are those of `SegmentationModule`: `miou`, `pixel_acc`, and the IoU of each class.

    Args:
        name: Name of the task.
        classes: Names of the classes, usually the background first; `None` takes them from the data (`mask_classes`).
        head: `fcn` (on a feature pyramid) or `deeplab`.
        stride: The logits are computed for squares of so many pixels; `None` for 4, or 2 up to 128 pixels.
        channels: Channels inside the head.
        dropout: Probability of dropping a channel before the classifier.
        dice_weight: Weight of the Dice loss; 0 leaves it out.
        **kwargs: Arguments of `BaseTask`; `key` is `mask`.
    """

    default_key: ClassVar[str | None] = "mask"
    likelihood = "classification"
    score: ClassVar[str | None] = "miou"
    parts = ("ce", "dice")

    def __init__(
        self,
        name: str,
        classes: list[str] | None = None,
        head: Literal["fcn", "deeplab"] = "fcn",
        stride: int | None = None,
        channels: int = 128,
        dropout: float = 0.1,
        dice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if dice_weight < 0:
            raise ValueError(f"dice_weight={dice_weight}: give 0 or more.")
        self.classes = classes
        self.kind = head
        self.stride, self.channels, self.dropout = stride, channels, dropout
        self.dice_weight = dice_weight

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the names of the classes."""
        return "mask_classes"

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Take the names of the classes from the DataModule."""
        names = getattr(datamodule, "mask_classes", None)
        return {"classes": list(names)} if names and not self.classes else {}

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the head on the backbone's feature maps."""
        if not self.classes:
            raise ValueError(
                f"the classes of the task {self.name} are unknown: give tasks.{self.name}.classes, their names, or "
                "train on data with masks (AnnotatedImagesDataModule, or ShapesDataModule with --data.targets all)."
            )
        stride = self.stride or default_stride(image_size)
        levels = backbone.feature_levels(image_size)
        head = build_segmenter(self.kind, levels, len(self.classes), stride, self.channels, self.dropout)
        self.map_strides = tuple(head.strides)
        return head.to(memory_format=torch.channels_last)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the intersection over union."""
        return {"iou": SegmentationIoU(self.classes or [])}

    def known(self, target: Tensor) -> Tensor:
        """Return which images have a pixel of known class."""
        return (target != IGNORE_INDEX).flatten(1).any(1)

    def forward(self, features: Features) -> Tensor:
        """Return the logits (N, K, H, W) of the pixels."""
        head = cast(SegmentationHead, self.head)
        return head.upsample(head(features.maps), features.image_size)

    def batch_loss(self, output: Tensor, target: Tensor) -> TaskLoss:
        """Return the cross-entropy, a mean over pixels, and the Dice loss, averaged by images over processes."""
        target, n = target.long(), len(target)
        pixels = int((target != IGNORE_INDEX).sum())
        parts: dict[str, tuple[Tensor, float]] = {
            "ce": (pixel_cross_entropy(output, target) * pixels, pixels),
            "dice": (self.dice_weight * dice_loss(output, target) * n, n),
        }
        return TaskLoss(parts, n)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the metrics with the likeliest classes."""
        metrics.update(output.argmax(1), target.long())

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return `masks` (N, H, W) int64 of the likeliest classes, and their mean probability as `confidence` (N,)."""
        highest, masks = output.softmax(1).max(1)
        there = torch.ones_like(masks, dtype=torch.bool)
        if "size" in batch:  # without what images are padded with
            height, width = batch["size"].to(masks.device).T[..., None, None]
            y, x = (torch.arange(side, device=masks.device) for side in masks.shape[1:])
            there = (y[:, None] < height) & (x < width)
        return {"masks": masks, "confidence": (highest * there).sum((1, 2)) / there.sum((1, 2))}

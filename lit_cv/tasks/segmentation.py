"""Semantic segmentation task."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_cv.errors import OptionError, setting
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.losses.segmentation import dice_loss_of_sums, dice_sums, summed_pixel_cross_entropy
from lit_cv.metrics import SegmentationIoU
from lit_cv.nn import Backbone
from lit_cv.nn.segmentation import SegmentationHead, build_segmenter, default_stride
from lit_cv.tasks.base_task import TASKS, Features
from lit_cv.tasks.class_weights import ClassWeight, pixel_weights
from lit_cv.tasks.dense import DenseTask
from lit_cv.tasks.loss import TaskLoss

__all__ = ["SegmentationTask"]


@TASKS.add("segmentation")
class SegmentationTask(DenseTask):
    """Predicts the class of every pixel, trained by cross-entropy and Dice loss.

    The target is (N, H, W) int64, classes from 0, and 255 for unknown classes; an image with only unknown pixels has
    no target. Losses and metrics are listed in `SegmentationModule`.

    Args:
        name: Name of the task.
        classes: Names of the classes, usually the background first; `None` takes them from the data (`mask_classes`).
        head: `fcn` (on a feature pyramid) or `deeplab`.
        stride: Stride in pixels of the computed logits; `None` for 4, or for 2 with images up to 128 pixels.
        channels: Channels inside the head.
        dropout: Probability of dropping a channel before the classifier.
        dice_weight: Weight of the Dice loss; 0 disables it.
        class_weight: Weights of the classes in the cross-entropy of training: `balanced` (inverse to their number of
            training pixels, mean 1), a list with one number per class, or `None` for equal weights.
        **kwargs: Arguments of `BaseTask`; the default `key` is `mask`.
    """

    attribute = "mask_classes"
    things = "pixels"
    default_key: ClassVar[str | None] = "mask"
    score: ClassVar[str | None] = "miou"
    masks_unknown: ClassVar[bool] = True
    shown: ClassVar[tuple[str, str]] = ("masks", "target")
    lacking: ClassVar[str] = "no pixel of the {stage} data has a class"
    pipeline_tag: ClassVar[str | None] = "image-segmentation"
    parts = ("ce", "dice")

    @property
    def source(self) -> str:
        """Description of data with such targets, for messages."""
        return f"data with masks (AnnotatedImagesDataModule, or ShapesDataModule with {setting('targets', 'mask')})"

    def __init__(
        self,
        name: str,
        classes: list[str] | None = None,
        head: Literal["fcn", "deeplab"] = "fcn",
        stride: int | None = None,
        channels: int = 128,
        dropout: float = 0.1,
        dice_weight: float = 1.0,
        class_weight: ClassWeight | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, classes, class_weight, **kwargs)
        if dice_weight < 0:
            raise OptionError(self, "dice_weight", dice_weight, "must be at least 0")
        self.kind = head
        self.stride, self.channels, self.dropout = stride, channels, dropout
        self.dice_weight = dice_weight

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the head for the backbone's feature maps."""
        names = self.names
        self.settled = {"stride": self.stride or default_stride(image_size)}
        levels = backbone.feature_levels(image_size)
        head = build_segmenter(self.kind, levels, len(names), self.settled["stride"], self.channels, self.dropout)
        self.map_strides = tuple(head.strides)
        return head.to(memory_format=torch.channels_last)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the intersection over union, with the pixel accuracy."""
        return {"iou": SegmentationIoU(self.names)}

    def metric_options(self) -> dict[str, Any]:
        """Return the number of classes, their names, and further arguments of torchmetrics."""
        names = self.names
        return {"task": "multiclass", "num_classes": len(names), "class_names": names, "average": "macro"}

    @staticmethod
    def known_entries(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true classes of pixels with a known class, (P,) each."""
        known = target != IGNORE_INDEX
        return output[known], target[known]

    def weigh(self, weights: ClassWeight, datamodule: object, name: str) -> Tensor:
        """Return the weights of the pixel classes."""
        return pixel_weights(weights, len(self.names), datamodule, name)

    def known(self, target: Tensor) -> Tensor:
        """Return which images have a pixel with a known class."""
        return (target != IGNORE_INDEX).flatten(1).any(1)

    def forward(self, features: Features) -> Tensor:
        """Return the logits (N, K, H, W) of the pixels."""
        head = cast(SegmentationHead, self.head)
        return head.upsample(head(features.maps), features.image_size)

    def batch_loss(self, output: Tensor, target: Tensor) -> TaskLoss:
        """Return the sums of the cross-entropy over pixels, and those that determine the Dice loss."""
        target = target.long()
        parts: dict[str, tuple[Tensor, float | Tensor]] = {
            "ce": summed_pixel_cross_entropy(output, target, self.loss_weight),
            "dice": (dice_sums(output, target), self.known(target).sum()),
        }
        return TaskLoss(parts, len(target))

    def no_loss(self, parameters: Iterable[Tensor] | None = None) -> TaskLoss:
        """Return the loss without images, see `BaseTask.no_loss`."""
        parts = super().no_loss(parameters).parts
        return TaskLoss({"ce": parts["ce"], "dice": (parts["dice"][0].expand(3, len(self.names)), 0)}, 0)

    def term(self, part: str, total: Tensor, count: float | Tensor) -> Tensor:
        """Return the mean cross-entropy, or the Dice loss."""
        return super().term(part, total, count) if part == "ce" else dice_loss_of_sums(total)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the cross-entropy plus the weighted Dice loss."""
        return terms["ce"] + self.dice_weight * terms["dice"]

    def decode(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the most probable classes (N, H, W)."""
        return output.argmax(1)

    def update_metrics(self, metrics: Any, output: Tensor, target: Tensor) -> None:
        """Update the metrics with the most probable classes."""
        metrics.update(output, target.long())

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return `masks` (N, H, W) int64 of the most probable classes, and their mean probability `confidence` (N,)."""
        highest, masks = output.softmax(1).max(1)
        inside = torch.ones_like(masks, dtype=torch.bool)
        if "size" in batch:  # excludes padding
            height, width = batch["size"].to(masks.device).T[..., None, None]
            y, x = (torch.arange(side, device=masks.device) for side in masks.shape[1:])
            inside = (y[:, None] < height) & (x < width)
        return {"masks": masks, "confidence": (highest * inside).sum((1, 2)) / inside.sum((1, 2))}

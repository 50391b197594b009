"""Intersection over union for semantic segmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.metrics.detection import metric_names

__all__ = ["SegmentationIoU"]


class SegmentationIoU(Metric):
    """Intersection over union and pixel accuracy, from a confusion matrix of all pixels.

    `compute` returns `miou`, the mean intersection over union of the classes that occur in the ground truth or the
    predictions; `pixel_acc`, the pixel accuracy; and `iou_CLASS` for every class, NaN if it does not occur. Pixels with
    an unknown class do not count.

    Args:
        class_names: Names of the classes from 0.
        ignore_index: Value of the target where the class is unknown.

    Example:
        >>> metric = SegmentationIoU(["ground", "cat"])
        >>> metric.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'miou': 0.5, 'pixel_acc': 0.667, 'iou_ground': 0.5, 'iou_cat': 0.5}
    """

    counts: Tensor

    def __init__(self, class_names: Sequence[str], ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.class_names = list(class_names)
        self.ignore_index = ignore_index
        k = len(self.class_names)
        self.add_state("counts", torch.zeros(k, k, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add masks of classes, both (N, H, W) int64."""
        k, known = len(self.class_names), target != self.ignore_index
        pairs = target[known] * k + predicted[known]
        self.counts += torch.bincount(pairs, minlength=k * k).view(k, k)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of all images so far."""
        counts = self.counts.double()
        correct = counts.diagonal()
        iou = correct / (counts.sum(0) + counts.sum(1) - correct)  # NaN for classes that do not occur
        values = {"miou": iou.nanmean(), "pixel_acc": correct.sum() / counts.sum()}
        values |= {f"iou_{name}": value for name, value in zip(metric_names(self.class_names), iou, strict=True)}
        return {name: value.float() for name, value in values.items()}

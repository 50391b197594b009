"""Intersection over union of the classes of pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.metrics.detection import metric_names

__all__ = ["SegmentationIoU"]


class SegmentationIoU(Metric):
    """Counts which class every pixel has and was given, over all images.

    `compute` gives `miou`, the mean intersection over union of the classes that occur in truth or prediction;
    `pixel_acc`, the share of pixels that are right; and `iou_CLASS` of every class, NaN where it does not occur.
    Pixels whose class is unknown do not count.

    Args:
        class_names: Names of the classes from 0.
        ignore_index: What masks hold where the class is unknown.

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
        """Take in masks of classes, both (N, H, W) int64."""
        k, known = len(self.class_names), target != self.ignore_index
        pairs = target[known] * k + predicted[known]
        self.counts += torch.bincount(pairs, minlength=k * k).view(k, k)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of all images so far."""
        counts = self.counts.double()
        both = counts.diagonal()
        iou = both / (counts.sum(0) + counts.sum(1) - both)  # NaN for classes that do not occur
        values = {"miou": iou.nanmean(), "pixel_acc": both.sum() / counts.sum()}
        values |= {f"iou_{name}": own for name, own in zip(metric_names(self.class_names), iou, strict=True)}
        return {name: value.float() for name, value in values.items()}

"""Average precision of object detectors, as defined by COCO."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from lit_cv.nn.detection import Detections

__all__ = ["DetectionAP", "metric_name", "metric_names"]

# COCO's thresholds in float64: torchmetrics' are in float32, so an IoU or recall of exactly 0.6 would not reach 0.6.
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0.0, 1.0, 101).tolist()


class DetectionAP(MeanAveragePrecision):
    """Mean average precision over classes (Lin et al. 2014, COCO), computed by faster-coco-eval in C++.

    `compute` returns `map` (averaged over the IoU thresholds 0.5, 0.55, ..., 0.95), `map50`, `map75`, `mar` (recall
    with 100 detections per image, averaged likewise), and `ap_CLASS` and `ap50_CLASS` for every class with objects.
    Without any objects, the first four are NaN.

    Args:
        class_names: Names of the classes.

    Example:
        >>> import torch
        >>> metric = DetectionAP(["cat", "dog"])
        >>> boxes, labels = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([1])
        >>> metric.update([Detections(boxes, torch.ones(1), labels)], [{"boxes": boxes, "labels": labels}])
        >>> sorted(metric.compute())
        ['ap50_dog', 'ap_dog', 'map', 'map50', 'map75', 'mar']
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__(
            backend="faster_coco_eval", iou_thresholds=_IOUS, rec_thresholds=_RECALLS, extended_summary=True
        )
        self.class_names = list(class_names)
        self.metric_names = metric_names(class_names)
        self.warn_on_many_detections = False

    def update(self, detections: Sequence[Detections], targets: Sequence[dict[str, Tensor]]) -> None:  # type: ignore[override]
        """Add images.

        Args:
            detections: Detections in each of N images.
            targets: Ground truth of each image: `boxes` (n, 4), `labels` (n,) and optionally `iscrowd` (n,), which
                marks groups of objects; detections in a group count neither as true nor as false positives.
        """
        predicted = [image._asdict() for image in detections]
        truth = [{name: v.int() if name == "iscrowd" else v for name, v in target.items()} for target in targets]
        super().update(predicted, truth)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of all images so far, NaN if there are no objects."""
        named = {"map": "map", "map50": "map_50", "map75": "map_75", "mar": "mar_100"}
        if not self.detection_scores:
            return {name: torch.tensor(torch.nan, device=self.device) for name in named}
        full: dict[str, Any] = super().compute()
        # COCO's evaluation returns -1 if there are no objects.
        result = {name: full[entry].masked_fill(full[entry] < 0, torch.nan) for name, entry in named.items()}
        precision = full["precision"]  # IoU thresholds, recalls, classes, areas, numbers of detections
        for index, label in enumerate(full["classes"].reshape(-1).tolist()):
            class_precision = precision[:, :, index, 0, -1]
            if (class_precision > -1).any():
                name = self.metric_names[label]
                result |= {f"ap_{name}": class_precision.mean(), f"ap50_{name}": class_precision[0].mean()}
        return {name: value.float().to(self.device) for name, value in result.items()}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Gather the images of all ranks; torchmetrics would require the same number on each rank."""
        for name in self._defaults:
            parts: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size(process_group))]
            values = [value.cpu() for value in getattr(self, name)]
            torch.distributed.all_gather_object(parts, values, group=process_group)
            setattr(self, name, [value.to(self.device) for part in parts for value in part])


def metric_name(name: str) -> str:
    """Convert the name of a class to a part of a metric name.

    Example:
        >>> metric_name("traffic light")
        'traffic_light'
    """
    return "_".join(name.replace("/", " ").split())


def metric_names(names: Sequence[str]) -> list[str]:
    """Convert the names of classes to distinct parts of metric names.

    Example:
        >>> metric_names(["traffic light", "traffic_light", "cat"])
        ['traffic_light', 'traffic_light_1', 'cat']
    """
    parts: dict[str, None] = {}
    for number, name in enumerate(names):
        part = metric_name(name)
        while part in parts:
            part += f"_{number}"
        parts[part] = None
    return list(parts)

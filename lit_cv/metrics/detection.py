"""Average precision of object detectors, as COCO counts it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from lit_cv.nn.detection import Detections

__all__ = ["DetectionAP", "metric_name", "metric_names"]

# COCO's own, in float64: torchmetrics rounds them to float32, by which an IoU or a recall of exactly 0.6 falls short.
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0.0, 1.0, 101).tolist()


class DetectionAP(MeanAveragePrecision):
    """Mean average precision over classes (Lin et al. 2014, COCO), on its evaluation in C++ by faster-coco-eval.

    `compute` gives `map` (averaged over the IoU thresholds 0.5, 0.55, ..., 0.95), `map50`, `map75`, `mar` (recall
    with 100 detections an image, averaged likewise), and for every class with objects `ap_CLASS` and `ap50_CLASS`.
    Without any object the four are NaN: there is nothing to score.

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
        """Take in images.

        Args:
            detections: What was found in each of N images.
            targets: Likewise `boxes` (n, 4) and `labels` (n,) that are there, and where there are crowds, `iscrowd`
                (n,): groups of objects, in which detections count neither as right nor as wrong.
        """
        found = [found._asdict() for found in detections]
        wanted = [{name: v.int() if name == "iscrowd" else v for name, v in target.items()} for target in targets]
        super().update(found, wanted)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of all images so far, NaN where there are no objects."""
        named = {"map": "map", "map50": "map_50", "map75": "map_75", "mar": "mar_100"}
        if not self.detection_scores:
            return {name: torch.tensor(torch.nan, device=self.device) for name in named}
        full: dict[str, Any] = super().compute()
        # COCO's evaluation marks what has no objects by -1.
        result = {name: full[entry].masked_fill(full[entry] < 0, torch.nan) for name, entry in named.items()}
        precision = full["precision"]  # IoU thresholds, recalls, classes, areas, numbers of detections
        for place, label in enumerate(full["classes"].reshape(-1).tolist()):
            own = precision[:, :, place, 0, -1]
            if (own > -1).any():
                name = self.metric_names[label]
                result |= {f"ap_{name}": own.mean(), f"ap50_{name}": own[0].mean()}
        return {name: value.float().to(self.device) for name, value in result.items()}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Gather the images of all processes; torchmetrics would want as many on each."""
        for name in self._defaults:
            parts: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size(process_group))]
            own = [value.cpu() for value in getattr(self, name)]
            torch.distributed.all_gather_object(parts, own, group=process_group)
            setattr(self, name, [value.to(self.device) for part in parts for value in part])


def metric_name(name: str) -> str:
    """Return the name of a class as a part of a metric's name.

    Example:
        >>> metric_name("traffic light")
        'traffic_light'
    """
    return "_".join(name.replace("/", " ").split())


def metric_names(names: Sequence[str]) -> list[str]:
    """Return the names of classes as parts of metrics' names, each another one.

    Example:
        >>> metric_names(["traffic light", "traffic_light", "cat"])
        ['traffic_light', 'traffic_light_1', 'cat']
    """
    found: dict[str, None] = {}
    for number, name in enumerate(names):
        part = metric_name(name)
        while part in found:
            part += f"_{number}"
        found[part] = None
    return list(found)

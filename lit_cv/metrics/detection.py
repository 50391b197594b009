"""Average precision of object detectors, as defined by COCO."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from lit_cv.nn.detection import Detections, named_entries

__all__ = ["DetectionAP", "metric_name", "metric_names"]

# COCO's thresholds in float64: torchmetrics' are in float32, so an IoU or recall of exactly 0.6 would not reach 0.6.
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0.0, 1.0, 101).tolist()


class DetectionAP(MeanAveragePrecision):
    """Mean average precision over classes (Lin et al. 2014, COCO), computed by faster-coco-eval in C++.

    `compute` returns `map` (averaged over the IoU thresholds 0.5, 0.55, ..., 0.95), `map50`, `map75`, `mar` (recall
    with 100 detections per image, averaged likewise), and `ap_CLASS` and `ap50_CLASS` for every class with objects.
    Without any objects, the first four are NaN. With `masks`, the same values of masks are added with the prefix
    `mask_`; an object with an empty mask counts as missed.

    Args:
        class_names: Names of the classes.
        masks: Whether masks are compared, besides boxes.

    Example:
        >>> import torch
        >>> metric = DetectionAP(["cat", "dog"])
        >>> boxes, labels = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([1])
        >>> metric.update([Detections(boxes, torch.ones(1), labels)], [{"boxes": boxes, "labels": labels}])
        >>> sorted(metric.compute())
        ['ap50_dog', 'ap_dog', 'map', 'map50', 'map75', 'mar']
    """

    def __init__(self, class_names: Sequence[str], masks: bool = False) -> None:
        super().__init__(
            iou_type=("bbox", "segm") if masks else "bbox",
            backend="faster_coco_eval",
            iou_thresholds=_IOUS,
            rec_thresholds=_RECALLS,
            extended_summary=True,
        )
        # Names of torchmetrics' results, and of those returned, begin with these.
        self.prefixes = {"bbox_": "", "segm_": "mask_"} if masks else {"": ""}
        self.class_names = list(class_names)
        self.metric_names = metric_names(class_names)
        self.warn_on_many_detections = False

    def update(self, detections: Sequence[Detections], targets: Sequence[dict[str, Tensor]]) -> None:  # type: ignore[override]
        """Add images.

        Args:
            detections: Detections in each of N images.
            targets: Ground truth of each image: `boxes` (n, 4), `labels` (n,) and optionally `iscrowd` (n,), which
                marks groups of objects; detections in a group count neither as true nor as false positives. If masks
                are compared, also `masks` (n, H, W) bool, of the size of the detections' masks.
        """
        predicted = [named_entries(image) for image in detections]
        truth = [{name: v.int() if name == "iscrowd" else v for name, v in target.items()} for target in targets]
        super().update(predicted, truth)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of all images so far, NaN if there are no objects."""
        named = {"map": "map", "map50": "map_50", "map75": "map_75", "mar": "mar_100"}
        if not self.detection_scores:
            names = [prefix + name for prefix in self.prefixes.values() for name in named]
            return {name: torch.tensor(torch.nan, device=self.device) for name in names}
        full: dict[str, Any] = super().compute()
        result = {}
        for source, prefix in self.prefixes.items():
            for name, entry in named.items():
                value = full[source + entry]
                # COCO's evaluation returns -1 if there are no objects.
                result[prefix + name] = value.masked_fill(value < 0, torch.nan)
            # IoU thresholds, recalls, classes, areas, numbers of detections
            precision = full[f"{source}precision"]
            for index, label in enumerate(full["classes"].reshape(-1).tolist()):
                class_precision = precision[:, :, index, 0, -1]
                if (class_precision > -1).any():
                    name = self.metric_names[label]
                    result[f"{prefix}ap_{name}"] = class_precision.mean()
                    result[f"{prefix}ap50_{name}"] = class_precision[0].mean()
        return {name: value.float().to(self.device) for name, value in result.items()}

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Gather the images of all ranks; torchmetrics would require the same number on each rank."""
        for name in self._defaults:
            parts: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size(process_group))]
            # Masks are tuples of their run-length encodings.
            values = [value.cpu() if isinstance(value, Tensor) else value for value in getattr(self, name)]
            torch.distributed.all_gather_object(parts, values, group=process_group)
            gathered = [value for part in parts for value in part]
            setattr(self, name, [v.to(self.device) if isinstance(v, Tensor) else v for v in gathered])


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

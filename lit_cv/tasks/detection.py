"""Tasks whose answers are objects."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.metrics import DetectionAP
from lit_cv.nn import Backbone
from lit_cv.nn.detectors import Detections, Detector, build_detector, check_limits, default_strides
from lit_cv.tasks.base_task import BaseTask, Features, TaskLoss

__all__ = ["DetectionTask"]


_PARTS = {"fcos": ("centerness",), "faster_rcnn": ("objectness", "rpn_box")}  # of the loss, besides class and box


class DetectionTask(BaseTask):
    """Finds the objects of an image, by FCOS, RetinaNet or Faster R-CNN on a feature pyramid of its own.

    The targets are `boxes`, a list of (n, 4) float, xyxy in pixels, and `box_labels`, a list of (n,) int64 from 0; n
    may be 0. An image whose objects are unknown has `None` in place of its boxes, or False in `boxes_known` (N,).
    Losses and metrics are those of `DetectionModule`: `map`, `map50`, `map75`, `mar`, and those of each class.

    Args:
        name: Name of the task.
        classes: Names of the classes; `None` takes them from the data (`box_classes`).
        detector: `fcos`, `retinanet` or `faster_rcnn`.
        strides: Strides of the pyramid's maps, see `DetectionModule`.
        channels: Channels of the pyramid's maps, a multiple of 32.
        num_convs: Convolutions in each branch of the head.
        score_threshold: Objects of a lower score are not reported.
        iou_threshold: Of two boxes of one class that overlap more than this only the better one is reported.
        max_detections: Objects reported for an image, at most.
        **kwargs: Arguments of `BaseTask`; `key` is `boxes`, and their labels are in `box_labels`.
    """

    default_key: ClassVar[str | None] = "boxes"
    likelihood = "classification"
    score: ClassVar[str | None] = "map50"

    def __init__(
        self,
        name: str,
        classes: list[str] | None = None,
        detector: Literal["fcos", "retinanet", "faster_rcnn"] = "fcos",
        strides: list[int] | None = None,
        channels: int = 128,
        num_convs: int = 2,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        check_limits(score_threshold, iou_threshold, max_detections)
        self.classes = classes
        self.detector = detector
        self.parts = ("class", "box", *_PARTS.get(detector, ()))
        self.strides = strides
        self.channels, self.num_convs = channels, num_convs
        self.limits = (score_threshold, iou_threshold, max_detections)

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the names of the classes."""
        return "box_classes"

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Take the names of the classes from the DataModule."""
        names = getattr(datamodule, "box_classes", None)
        return {"classes": list(names)} if names and not self.classes else {}

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the detector on the backbone's feature maps."""
        if not self.classes:
            raise ValueError(
                f"the classes of the task {self.name} are unknown: give tasks.{self.name}.classes, their names, or "
                "train on data with boxes (AnnotatedImagesDataModule, or ShapesDataModule with --data.targets all)."
            )
        strides = self.strides or default_strides(image_size)
        levels = backbone.feature_levels(image_size)
        detector = build_detector(self.detector, levels, len(self.classes), strides, self.channels, self.num_convs)
        self.map_strides = tuple(sorted(set(detector.pyramid.sources.values())))
        return detector.to(memory_format=torch.channels_last)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return COCO's average precision."""
        return {"ap": DetectionAP(self.classes or [])}

    def forward(self, features: Features) -> dict[str, Any]:
        """Return the detector's raw outputs, see `lit_cv.nn.detectors`, and the `image_size`."""
        return {"raw": self.head(features.maps), "image_size": features.image_size}

    def target(self, batch: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the boxes of each image with their classes, which are crowds, and the image's size."""
        boxes, labels = batch.get(self.key), batch.get("box_labels")
        if boxes is None or labels is None:
            return None
        entries: dict[str, Sequence[Any]] = {"boxes": boxes, "labels": labels}
        entries |= {name: batch[name] for name in ("iscrowd", "size", f"{self.key}_known") if name in batch}
        return [dict(zip(entries, values, strict=True)) for values in zip(*entries.values(), strict=True)]

    def known(self, target: list[dict[str, Any]]) -> Tensor:
        """Return which images have their boxes."""
        name = f"{self.key}_known"
        return torch.tensor([own["boxes"] is not None and bool(own.get(name, True)) for own in target])

    def batch_loss(self, output: dict[str, Any], target: list[dict[str, Any]]) -> TaskLoss:
        """Return the detector's losses; those of several processes are averaged by their images."""
        single = [~own["iscrowd"].bool() if "iscrowd" in own else slice(None) for own in target]
        boxes = [own["boxes"][kept] for own, kept in zip(target, single, strict=True)]
        labels = [own["labels"][kept] for own, kept in zip(target, single, strict=True)]
        losses, n = self._detector.losses(output["raw"], boxes, labels), len(target)
        return TaskLoss({part: (losses[f"{part}_loss"] * n, n) for part in self.parts}, n)

    def update_metrics(self, metrics: MetricCollection, output: dict[str, Any], target: list[dict[str, Any]]) -> None:
        """Feed the metrics with what is found."""
        sizes = [_pair(own["size"]) if "size" in own else output["image_size"] for own in target]
        names = ("boxes", "labels", "iscrowd")
        wanted = [{name: own[name] for name in names if name in own} for own in target]
        metrics.update(self._detector.detect(output["raw"], sizes, *self.limits), wanted)

    def predict(self, output: dict[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return lists of `boxes` (n, 4) in pixels of the batch's images, `box_labels` (n,) and `scores` (n,)."""
        n = len(batch["image"])
        sizes = [_pair(size) for size in batch["size"]] if "size" in batch else [output["image_size"]] * n
        found: list[Detections] = self._detector.detect(output["raw"], sizes, *self.limits)
        names = {"boxes": "boxes", "box_labels": "labels", "scores": "scores"}
        return {name: [getattr(own, entry) for own in found] for name, entry in names.items()}

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.head)


def _pair(size: Tensor) -> tuple[int, int]:
    return int(size[0]), int(size[1])

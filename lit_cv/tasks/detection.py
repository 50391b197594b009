"""Tasks whose answers are objects."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_cv.errors import setting
from lit_cv.metrics import DetectionAP
from lit_cv.nn import Backbone
from lit_cv.nn.detection import (
    Detections,
    Detector,
    LayoutName,
    build_detector,
    check_limits,
    default_strides,
    layout_named,
)
from lit_cv.tasks.base_task import TASKS, Features
from lit_cv.tasks.class_weights import ClassWeight, object_weights
from lit_cv.tasks.dense import DenseTask
from lit_cv.tasks.loss import TaskLoss

__all__ = ["DetectionTask"]


_PARTS = {"fcos": ("centerness",), "faster_rcnn": ("objectness", "rpn_box")}  # of the loss, besides class and box


@TASKS.add("detection")
class DetectionTask(DenseTask):
    """Finds the objects of an image, by FCOS, RetinaNet or Faster R-CNN on a feature pyramid of its own.

    The targets are `boxes`, a list of (n, 4) float, xyxy in pixels, and `box_labels`, a list of (n,) int64 from 0; n
    may be 0. An image whose objects are unknown has `None` in place of its boxes, or False in `boxes_known` (N,).
    Images that are padded have their heights and widths in `size` (N, 2). Boxes that `iscrowd` marks are not learnt.
    Losses and metrics are those that `DetectionModule` lists.

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
        class_weight: Weights of the classes of objects in the class loss of training: `balanced` (inverse to their
            number of training objects, with a mean of 1 over these), a list of a number for each, or `None` for equal
            weights. The background keeps the weight 1.
        layout: Structure of a published detector, see `DetectionModule`; it replaces `detector`, `strides`, `channels`
            and `num_convs`.
        other_classes: Outputs of Faster R-CNN for classes that count as background.
        **kwargs: Arguments of `BaseTask`; `key` is `boxes`, and their labels are in `box_labels`.
    """

    attribute = "box_classes"
    things = "boxes"
    default_key: ClassVar[str | None] = "boxes"
    score: ClassVar[str | None] = "map50"
    least: ClassVar[float] = 1.0  # without any object what is expected nowhere counts as if of one
    shown: ClassVar[tuple[str, str]] = ("detections", "targets")
    lacking: ClassVar[str] = "no image of the {stage} data has boxes that are known"

    @property
    def source(self) -> str:
        """Which data have such targets, for messages."""
        return f"data with boxes (AnnotatedImagesDataModule, or ShapesDataModule with {setting('targets', 'boxes')})"

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
        class_weight: ClassWeight | None = None,
        layout: LayoutName | None = None,
        other_classes: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, classes, class_weight, **kwargs)
        check_limits(score_threshold, iou_threshold, max_detections)
        self.layout, self.structure, self.other_classes = layout, layout_named(layout), other_classes
        if self.structure is not None:
            detector, strides = self.structure.detector, list(self.structure.strides)
            channels, num_convs = self.structure.channels, self.structure.num_convs
        self.detector = detector
        self.parts = ("class", "box", *_PARTS.get(detector, ()))
        self.strides = strides
        self.channels, self.num_convs = channels, num_convs
        self.limits = (score_threshold, iou_threshold, max_detections)

    @property
    def entries(self) -> str:
        """Entries of a batch that the target is made of, for messages."""
        return f"`{self.key}` and `box_labels`"

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the detector on the backbone's feature maps."""
        names = self.names
        strides = self.strides or default_strides(image_size)
        if self.structure is None:
            levels, self.settled = backbone.feature_levels(image_size), {"strides": strides}
        else:
            levels, self.settled = self.structure.levels(backbone, image_size), self.structure.settled
        detector = build_detector(
            self.detector,
            levels,
            len(names),
            strides,
            self.channels,
            self.num_convs,
            self.layout,
            self.other_classes,
        )
        self.map_strides = tuple(sorted(set(detector.pyramid.sources.values())))
        return detector.to(memory_format=torch.channels_last)

    def weigh(self, given: ClassWeight, datamodule: object, name: str) -> Tensor:
        """Return the weights of the classes of objects."""
        return object_weights(given, len(self.names), datamodule, name)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return COCO's average precision."""
        return {"ap": DetectionAP(self.names)}

    def metric_options(self) -> dict[str, Any]:
        """Return the names of the classes, and their number."""
        return {"class_names": self.names, "num_classes": len(self.names)}

    @staticmethod
    def known_entries(output: Any, target: Any) -> tuple[Any, Any]:
        """Return detections and targets as torchmetrics takes them, lists of dicts of `boxes`, `scores`, `labels`."""
        return [found._asdict() for found in output], target

    def forward(self, features: Features) -> dict[str, Any]:
        """Return the detector's raw outputs, see `lit_cv.nn.detection`, and the `image_size`."""
        return {**self.head(features.maps), "image_size": features.image_size}

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
        there = torch.tensor([own["boxes"] is not None for own in target])
        flags = [own[name] for own in target if (name := f"{self.key}_known") in own]
        return there & torch.stack([torch.as_tensor(flag) for flag in flags]).bool().cpu() if flags else there

    def batch_loss(self, output: dict[str, Any], target: list[dict[str, Any]]) -> TaskLoss:
        """Return the detector's losses, by what each is a mean over."""
        single = [_without_crowds(own) for own in target]
        boxes, labels = ([own[name] for own in single] for name in ("boxes", "labels"))
        sums = self._detector.loss_sums(output, boxes, labels, self.loss_weight)
        return TaskLoss({part: sums[f"{part}_loss"] for part in self.parts}, len(target))

    def decode(self, output: dict[str, Any], target: list[dict[str, Any]]) -> list[Detections]:
        """Return the objects that are found in each image."""
        sizes = [own["size"] for own in target if "size" in own]
        return self.detect(output, len(target), torch.stack(sizes) if sizes else None)

    def update_metrics(self, metrics: Any, output: list[Detections], target: list[dict[str, Any]]) -> None:
        """Feed the metrics with what is found."""
        names = ("boxes", "labels", "iscrowd")
        metrics.update(output, [{name: own[name] for name in names if name in own} for own in target])

    def advice(self, results: Mapping[str, Tensor], stage: str, prefix: str) -> str | None:
        """Return a warning if there was no object to score."""
        if "map" not in results or not results["map"].isnan():
            return None
        return f"no image of the {stage} data has an object: `{prefix}map` and its kin are NaN."

    def predict(self, output: dict[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return lists of `boxes` (n, 4) in pixels of the batch's images, `box_labels` (n,) and `scores` (n,)."""
        found = self.detect(output, len(batch["image"]), batch.get("size"))
        names = {"boxes": "boxes", "box_labels": "labels", "scores": "scores"}
        return {name: [getattr(own, entry) for own in found] for name, entry in names.items()}

    def detect(self, output: dict[str, Any], n: int, sizes: Tensor | None = None) -> list[Detections]:
        """Return the objects in each of n images, of which those that are padded have heights and widths (n, 2)."""
        limits = [output["image_size"]] * n if sizes is None else [(int(y), int(x)) for y, x in sizes.tolist()]
        return self._detector.detect(output, limits, *self.limits)

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.head)


def _without_crowds(target: dict[str, Any]) -> dict[str, Any]:
    if "iscrowd" not in target:
        return target
    single = ~target["iscrowd"].bool()
    return {name: target[name][single] for name in ("boxes", "labels")}

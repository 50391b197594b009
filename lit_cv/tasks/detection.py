"""Object detection task."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from lit_cv.errors import setting
from lit_cv.metrics import DetectionAP
from lit_cv.nn import Backbone
from lit_cv.nn.detection import (
    Detections,
    Detector,
    LayoutName,
    Limits,
    build_detector,
    default_strides,
    layout_named,
    named_entries,
)
from lit_cv.tasks.base_task import TASKS, Features
from lit_cv.tasks.class_weights import ClassWeight, object_weights
from lit_cv.tasks.dense import DenseTask
from lit_cv.tasks.loss import TaskLoss

__all__ = ["DetectionTask"]


_PARTS = {  # loss terms besides class and box
    "fcos": ("centerness",),
    "faster_rcnn": ("objectness", "rpn_box"),
    "mask_rcnn": ("objectness", "rpn_box", "mask"),
}


@TASKS.add("detection")
class DetectionTask(DenseTask):
    """Detects the objects of an image, by FCOS, RetinaNet, Faster R-CNN or Mask R-CNN on a separate feature pyramid.

    The targets are `boxes`, a list of (n, 4) float, xyxy in pixels, and `box_labels`, a list of (n,) int64 from 0; n
    may be 0. For an image with unknown objects the boxes are `None`, or `boxes_known` (N,) is False. The heights and
    widths of padded images are in `size` (N, 2). Boxes marked by `iscrowd` are excluded from training. Mask R-CNN also
    needs `masks`, a list of (n, H, W) bool. Losses and metrics are listed in `DetectionModule`.

    Args:
        name: Name of the task.
        classes: Names of the classes; `None` takes them from the data (`box_classes`).
        detector: `fcos`, `retinanet`, `faster_rcnn` or `mask_rcnn`.
        strides: Strides of the pyramid's maps, see `DetectionModule`.
        channels: Channels of the pyramid's maps, a multiple of 32.
        num_convs: Convolutions in each branch of the head.
        score_threshold: Minimum score of a reported object.
        iou_threshold: Maximum overlap (IoU) of reported boxes of one class; of two, the one with the lower score is
            dropped.
        max_detections: Maximum number of objects reported per image.
        class_weight: Weights of the object classes in the class loss of training: `balanced` (inverse to their
            number of training objects, with a mean of 1 over these), a list with one number per class, or `None` for
            equal weights. The background keeps the weight 1.
        layout: Structure of a published detector, see `DetectionModule`; it replaces `detector`, `strides`, `channels`
            and `num_convs`.
        other_classes: Number of outputs of Faster R-CNN and Mask R-CNN for classes that count as background.
        **kwargs: Arguments of `BaseTask`; the default `key` is `boxes`, with their labels in `box_labels`.
    """

    attribute = "box_classes"
    things = "boxes"
    default_key: ClassVar[str | None] = "boxes"
    score: ClassVar[str | None] = "map50"
    least: ClassVar[float] = 1.0  # without objects, background losses are divided by 1
    shown: ClassVar[tuple[str, str]] = ("detections", "targets")
    lacking: ClassVar[str] = "no image of the {stage} data has known boxes"
    pipeline_tag: ClassVar[str | None] = "object-detection"

    @property
    def source(self) -> str:
        """Description of data with such targets, for messages."""
        if self.has_masks:
            return f"AnnotatedImagesDataModule or ShapesDataModule with {setting('targets', 'instances')}"
        return f"data with boxes (AnnotatedImagesDataModule, or ShapesDataModule with {setting('targets', 'boxes')})"

    def __init__(
        self,
        name: str,
        classes: list[str] | None = None,
        detector: Literal["fcos", "retinanet", "faster_rcnn", "mask_rcnn"] = "fcos",
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
        self.layout, self.structure, self.other_classes = layout, layout_named(layout), other_classes
        if self.structure is not None:
            detector, strides = self.structure.detector, list(self.structure.strides)
            channels, num_convs = self.structure.channels, self.structure.num_convs
        self.detector, self.has_masks = detector, detector == "mask_rcnn"
        self.parts = ("class", "box", *_PARTS.get(detector, ()))
        self.strides = strides
        self.channels, self.num_convs = channels, num_convs
        self.limits = Limits(score_threshold, iou_threshold, max_detections)
        self.limits.check()

    @property
    def entries(self) -> str:
        """Entries of a batch that form the target, for messages."""
        return f"`{self.key}`, `box_labels` and `masks`" if self.has_masks else f"`{self.key}` and `box_labels`"

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the detector for the backbone's feature maps."""
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

    def weigh(self, weights: ClassWeight, datamodule: object, name: str) -> Tensor:
        """Return the weights of the object classes."""
        return object_weights(weights, len(self.names), datamodule, name)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return COCO's average precision."""
        return {"ap": DetectionAP(self.names, self.has_masks)}

    def metric_options(self) -> dict[str, Any]:
        """Return the class names and their number."""
        return {"class_names": self.names, "num_classes": len(self.names)}

    @staticmethod
    def known_entries(output: Any, target: Any) -> tuple[Any, Any]:
        """Return detections and targets in the format of torchmetrics: dicts of `boxes`, `scores`, `labels`."""
        return [named_entries(detections) for detections in output], target

    def forward(self, features: Features) -> dict[str, Any]:
        """Return the detector's raw outputs, see `lit_cv.nn.detection`, and the `image_size`."""
        return {**self.head(features.maps), "image_size": features.image_size}

    def target(self, batch: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return a dict per image with boxes, labels, masks, crowd flags and size, as far as the batch has them."""
        keys = {"boxes": self.key, "labels": "box_labels"} | ({"masks": "masks"} if self.has_masks else {})
        if any(batch.get(key) is None for key in keys.values()):
            return None
        entries: dict[str, Sequence[Any]] = {name: batch[key] for name, key in keys.items()}
        entries |= {name: batch[name] for name in ("iscrowd", "size", f"{self.key}_known") if name in batch}
        return [dict(zip(entries, values, strict=True)) for values in zip(*entries.values(), strict=True)]

    def known(self, target: list[dict[str, Any]]) -> Tensor:
        """Return which images have known boxes."""
        has_boxes = torch.tensor([entry["boxes"] is not None for entry in target])
        flags = [entry[name] for entry in target if (name := f"{self.key}_known") in entry]
        return has_boxes & torch.stack([torch.as_tensor(flag) for flag in flags]).bool().cpu() if flags else has_boxes

    def batch_loss(self, output: dict[str, Any], target: list[dict[str, Any]]) -> TaskLoss:
        """Return the detector's losses as sums with their counts."""
        single = [_without_crowds(entry) for entry in target]
        boxes, labels = ([entry[name] for entry in single] for name in ("boxes", "labels"))
        further: dict[str, Any] = {"masks": [entry["masks"] for entry in single]} if self.has_masks else {}
        sums = self._detector.loss_sums(output, boxes, labels, self.loss_weight, **further)
        return TaskLoss({part: sums[f"{part}_loss"] for part in self.parts}, len(target))

    def decode(self, output: dict[str, Any], target: list[dict[str, Any]]) -> list[Detections]:
        """Return the detected objects of each image."""
        sizes = [entry["size"] for entry in target if "size" in entry]
        return self.detect(output, len(target), torch.stack(sizes) if sizes else None)

    def update_metrics(self, metrics: Any, output: list[Detections], target: list[dict[str, Any]]) -> None:
        """Update the metrics with the detected objects."""
        names = ("boxes", "labels", "iscrowd", "masks")
        metrics.update(output, [{name: entry[name] for name in names if name in entry} for entry in target])

    def advice(self, results: Mapping[str, Tensor], stage: str, prefix: str) -> str | None:
        """Return a warning if no image has an object, so that average precision is undefined."""
        if "map" not in results or not results["map"].isnan():
            return None
        return f"no image of the {stage} data has an object: `{prefix}map` and related metrics are NaN."

    def predict(self, output: dict[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return lists of `boxes` (n, 4) in pixels of the batch's images, `box_labels` (n,) and `scores` (n,).

        Mask R-CNN adds a list of `masks` (n, H, W) bool.
        """
        detected = self.detect(output, len(batch["image"]), batch.get("size"))
        names = {"boxes": "boxes", "box_labels": "labels", "scores": "scores"}
        names |= {"masks": "masks"} if self.has_masks else {}
        return {name: [getattr(detections, entry) for detections in detected] for name, entry in names.items()}

    def detect(self, output: dict[str, Any], n: int, sizes: Tensor | None = None) -> list[Detections]:
        """Return the objects in each of n images; `sizes` (n, 2) holds the heights and widths of padded images."""
        limits = [output["image_size"]] * n if sizes is None else [(int(y), int(x)) for y, x in sizes.tolist()]
        found = self._detector.detect(output, limits, self.limits)
        return [_padded(each, output["image_size"]) for each in found]

    def fixed_output(self, output: dict[str, Any], suppress: bool = True) -> dict[str, Tensor]:
        """Return `boxes` (N, K, 4) in pixels, `scores` (N, K) and `labels` (N, K), see `PaddedDetections`.

        Mask R-CNN adds `masks` (N, K, H, W) uint8, except to candidates.

        Args:
            output: Output of `forward` for N images.
            suppress: Whether to apply non-maximum suppression, with `max_detections` as K; without it, all candidates
                are returned.
        """
        padded = self._detector.detect_padded(output, output["image_size"], self.limits, suppress=suppress)
        return named_entries(padded)

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.head)


def _without_crowds(target: dict[str, Any]) -> dict[str, Any]:
    if "iscrowd" not in target:
        return target
    single = ~target["iscrowd"].bool()
    return {name: target[name][single] for name in ("boxes", "labels", "masks") if name in target}


def _padded(found: Detections, size: tuple[int, int]) -> Detections:
    """Return detections with masks of the size of the batch's images."""
    if found.masks is None:
        return found
    height, width = found.masks.shape[1:]
    return found._replace(masks=F.pad(found.masks, (0, size[1] - width, 0, size[0] - height)))

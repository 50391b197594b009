"""Object detection: boxes around the objects in images, and their classes."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.metrics import DetectionAP
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.modules.data_classes import ClassLists, class_lists
from lit_cv.nn.detectors import Detections, Detector, build_detector, check_limits, default_strides

__all__ = ["DetectionModule"]


class DetectionModule(BaseModule):
    """Learns to find objects from images with boxes: FCOS, RetinaNet or Faster R-CNN on any backbone.

    A batch has `image` (N, C, H, W), `boxes`, a list of (n, 4) float, xyxy in pixels of the batch's images, and
    `box_labels`, a list of (n,) int64 from 0; n may be 0. Images of different sizes are padded at the right and at
    the bottom, `size` (N, 2) then holds their heights and widths. Boxes that `iscrowd` marks are not learnt.

    The loss is the sum of the detector's own losses, which are logged apart: `class_loss`, `box_loss`, and
    `centerness_loss` (FCOS, Tian et al. 2019) or `objectness_loss` and `rpn_box_loss` (Faster R-CNN, Ren et al.
    2015); RetinaNet (Lin et al. 2017) has the first two. Validation and test log COCO's `map`, `map50`, `map75`,
    `mar`, and `ap_CLASS` and `ap50_CLASS`.

    The feature pyramid takes the backbone's maps of several resolutions; a vision transformer has one, of which the
    others are made. Images may have other sizes in prediction than in training.

    Args:
        box_classes: Names of the classes; `None` takes them from the data.
        detector: `fcos`, `retinanet` or `faster_rcnn`.
        strides: Strides of the pyramid's maps, powers of two in a row. `None` takes 8, 16, ... up to 128 or a
            quarter of the image, and starts at 4 for images up to 128 pixels.
        channels: Channels of the pyramid's maps, a multiple of 32 (256 in the papers).
        num_convs: Convolutions in each branch of the head (4 in the papers).
        score_threshold: Objects of a lower score are not reported.
        iou_threshold: Of two boxes of one class that overlap more than this only the better one is reported.
        max_detections: Objects reported for an image, at most.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> module = DetectionModule(backbone="resnet9_small", box_classes=["cell"], channels=32).eval()
        >>> found = module.detect(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))
        >>> len(found), found[0].boxes.shape[1], found[0]._fields
        (2, 4, ('boxes', 'scores', 'labels'))
    """

    monitor = "val_map50"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        box_classes: list[str] | None = None,
        detector: Literal["fcos", "retinanet", "faster_rcnn"] = "fcos",
        strides: list[int] | None = None,
        channels: int = 128,
        num_convs: int = 2,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_limits(score_threshold, iou_threshold, max_detections)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes.

        Raises:
            ValueError: If neither the arguments nor the data tell.
        """
        names = self.hparams["box_classes"]
        if not names:
            raise ValueError(
                "the classes of the boxes are unknown: give box_classes (--model.box_classes), or train on data with "
                "boxes (AnnotatedImagesDataModule, or ShapesDataModule with --data.targets boxes)."
            )
        return list(names)

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes of boxes."""
        return class_lists(datamodule, "box_classes")

    def compiled_networks(self) -> list[nn.Module]:
        """Return none: feature maps are taken from within the backbone."""
        return []

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the detector on the backbone's feature maps."""
        h = self.hparams
        size = (h["image_size"],) * 2 if isinstance(h["image_size"], int) else h["image_size"]
        if h["strides"] is None:
            h["strides"] = default_strides(size)
        levels = self.backbone.feature_levels(size)
        detector = build_detector(
            h["detector"], levels, len(self.class_names), h["strides"], h["channels"], h["num_convs"]
        )
        self.backbone.freeze_unused(detector.pyramid.sources.values(), size)
        return detector.to(memory_format=torch.channels_last)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return COCO's average precision."""
        return {"ap": DetectionAP(self.class_names)}

    def forward(self, images: Tensor) -> dict[str, Any]:  # type: ignore[override]
        """Return the detector's raw outputs for raw images, see `lit_cv.nn.detectors`."""
        self.configure_model()
        detector = self._detector
        return detector(self.backbone.forward_maps(images, detector.pyramid.sources.values()))  # type: ignore[no-any-return]

    def detect(self, images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Return the objects in raw images.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            sizes: Heights and widths (N, 2) of images that are padded.
        """
        return self._decode(self(images), images, sizes)

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Compare what is found in a batch with the boxes that are there."""
        targets = _targets(batch)
        raw = self(batch["image"])
        known = [_without_crowds(target) for target in targets]
        boxes, labels = ([own[name] for own in known] for name in ("boxes", "labels"))
        losses = self._detector.losses(raw, boxes, labels, gather=stage == "train")
        output: Output = {"loss": torch.stack(list(losses.values())).sum(), **losses}
        if stage != "train":
            output["detections"] = self._decode(raw, batch["image"], batch.get("size"))
            output["targets"] = targets
        return output

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Feed one batch to the metrics."""
        metrics.update(output["detections"], output["targets"])

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return lists of `boxes` (n, 4) in pixels of the batch's images, `box_labels` and `scores`; and `index`."""
        found = self.detect(batch["image"], batch.get("size"))
        return {
            "boxes": [own.boxes for own in found],
            "box_labels": [own.labels for own in found],
            "scores": [own.scores for own in found],
            **{name: batch[name] for name in ("index",) if name in batch},
        }

    @property
    def _detector(self) -> Detector:
        return cast(Detector, self.head)

    def _decode(self, raw: Mapping[str, Any], images: Tensor, sizes: Tensor | None) -> list[Detections]:
        h = self.hparams
        whole = (images.shape[2], images.shape[3])
        limits = [whole] * len(images) if sizes is None else [(int(y), int(x)) for y, x in sizes.tolist()]
        return self._detector.detect(raw, limits, h["score_threshold"], h["iou_threshold"], h["max_detections"])


def _targets(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the boxes of each image with their classes, and which of them are crowds."""
    if "boxes" not in batch or "box_labels" not in batch:
        raise ValueError(
            f"a detector learns from batches with `boxes` and `box_labels`, but this one has {', '.join(batch)}: "
            "take data with boxes (--data AnnotatedImagesDataModule, or --data.targets boxes of ShapesDataModule)."
        )
    names = {"boxes": "boxes", "labels": "box_labels", "iscrowd": "iscrowd"}
    given = {own: batch[name] for own, name in names.items() if name in batch}
    return [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]


def _without_crowds(target: dict[str, Tensor]) -> dict[str, Tensor]:
    if "iscrowd" not in target:
        return target
    single = ~target["iscrowd"].bool()
    return {name: values[single] for name, values in target.items()}

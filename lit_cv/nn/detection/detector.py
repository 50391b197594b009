"""The base class of object detectors.

A detector computes raw outputs from the feature maps of a backbone, losses from the raw outputs and the ground truth,
and boxes with scores from the raw outputs. It is independent of batches, metrics and training.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from lit_cv.errors import OptionError
from lit_cv.nn.detection.layouts import Layout, PublishedPyramid
from lit_cv.nn.detection.places import map_points, published_points
from lit_cv.nn.pyramid import FeaturePyramid

__all__ = [
    "Detections",
    "Detector",
    "PaddedDetections",
    "Selection",
    "check_limits",
    "named_entries",
    "select",
]

_CANDIDATES = 1000  # boxes before non-maximum suppression


class Selection(NamedTuple):
    """Settings for the boxes that enter non-maximum suppression.

    Attributes:
        candidates: Number of best-scoring boxes of each group; `None` keeps all.
        least_side: Minimum side of a box in pixels; smaller boxes are dropped.
    """

    candidates: int | None = _CANDIDATES
    least_side: float = 1.0


_DEFAULT_SELECTION = Selection()


class Detections(NamedTuple):
    """Objects detected in an image, highest score first.

    Attributes:
        boxes: (n, 4) float32, xyxy in pixels.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, from 0.
        masks: (n, H, W) bool, the pixels of each object; `None` from detectors that predict only boxes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class PaddedDetections(NamedTuple):
    """Objects detected in N images, highest score first, in K rows per image; unused rows follow.

    Attributes:
        boxes: (N, K, 4) float32, xyxy in pixels; 0 in unused rows.
        scores: (N, K) float32 in [0, 1]; 0 in unused rows.
        labels: (N, K) int64, from 0; -1 in unused rows.
        masks: (N, K, H, W) uint8, 1 at the pixels of each object; `None` from detectors that predict only boxes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Detector(nn.Module, ABC):
    """Base of the detectors: a feature pyramid, to which subclasses add heads.

    Args:
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        num_classes: Number of classes K, without the background.
        strides: Strides of the pyramid's maps, see `FeaturePyramid`.
        channels: Channels of each of these maps.
        layout: Structure of a published detector, which replaces `strides` and `channels`.

    Attributes:
        loss_names: Names of the losses.
        predicts_masks: Whether it predicts masks, and `loss_sums` also needs `masks`.
        selection: Settings of `detect` for the boxes that enter non-maximum suppression.
    """

    loss_names: ClassVar[tuple[str, ...]]
    predicts_masks: ClassVar[bool] = False
    selection = _DEFAULT_SELECTION

    def __init__(
        self,
        levels: Mapping[int, int],
        num_classes: int,
        strides: Sequence[int],
        channels: int,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise OptionError(self, "num_classes", num_classes, "a detector needs at least one class of objects")
        self.num_classes = num_classes
        self.layout = layout
        self.pyramid: FeaturePyramid | PublishedPyramid = (
            FeaturePyramid(levels, strides, channels) if layout is None else PublishedPyramid(levels, layout)
        )

    def run_pyramid(self, maps: Mapping[int, Tensor]) -> list[tuple[int, Tensor]]:
        """Return the strides and the maps of the pyramid, finest first."""
        return list(zip(self.pyramid.strides, self.pyramid(maps).values(), strict=True))

    def points(self, pyramid: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the image coordinates of all locations of the maps, (L, 2) in pixels, and their strides (L,)."""
        return map_points(pyramid) if self.layout is None else published_points(pyramid)

    @staticmethod
    def counts(pyramid: Sequence[tuple[int, Tensor]]) -> list[int]:
        """Return the number of locations of each map."""
        return [features.shape[2] * features.shape[3] for _, features in pyramid]

    def groups(self, pyramid: Sequence[tuple[int, Tensor]], boxes: int = 1) -> dict[str, list[int]]:
        """Return the number of boxes of each map as `groups` for a published detector, which selects boxes per map.

        Args:
            pyramid: Strides and maps.
            boxes: Number of boxes per location.
        """
        return {} if self.layout is None else {"groups": [boxes * count for count in self.counts(pyramid)]}

    def select_each(
        self,
        boxes: Iterable[Tensor],
        scores: Iterable[Tensor],
        sizes: Sequence[tuple[int, int]],
        limits: tuple[float, float, int],
        raw: Mapping[str, Any],
    ) -> list[Detections]:
        """Return the best boxes of each image, see `select`; `raw` may hold the sizes of `groups`."""
        groups = raw.get("groups", ())
        images = zip(boxes, scores, sizes, strict=True)
        return [select(*image, *limits, self.selection, groups) for image in images]

    @abstractmethod
    def forward(self, maps: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return the raw outputs for the maps of `Backbone.forward_maps`."""

    @abstractmethod
    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each loss by name as a sum and the count to divide it by, both scalars.

        Args:
            raw: Output of `forward` for N images.
            boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
            labels: N tensors (n,) int64, from 0.
            weight: Weights (K,) of the classes in the classification loss of objects.
        """

    def losses(
        self, raw: Mapping[str, Any], boxes: Sequence[Tensor], labels: Sequence[Tensor], **targets: Any
    ) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars whose sum is minimized in training; see `loss_sums`."""
        # In a batch without objects, the count is 0: divide by 1.
        sums = self.loss_sums(raw, boxes, labels, **targets)
        return {name: total / count.detach().clamp_min(1) for name, (total, count) in sums.items()}

    @abstractmethod
    def detect(
        self,
        raw: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> list[Detections]:
        """Return the detected objects in each image.

        Args:
            raw: Output of `forward` for N images.
            sizes: Height and width of the N images in pixels, without padding.
            score_threshold: Objects with a lower score are dropped.
            iou_threshold: If two boxes of a class overlap by more than this IoU, only the better one is kept.
            max_detections: Maximum number of objects per image.
        """

    @abstractmethod
    def detect_padded(
        self,
        raw: Mapping[str, Any],
        size: tuple[int, int],
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        suppress: bool = True,
    ) -> PaddedDetections:
        """Return the objects of `detect` as tensors of fixed sizes, for images of one size without padding.

        Args:
            raw: Output of `forward` for N images.
            size: Height and width of the images in pixels.
            score_threshold: See `detect`, like the next two.
            iou_threshold: Unused without non-maximum suppression.
            max_detections: Unused without non-maximum suppression.
            suppress: Whether to apply non-maximum suppression; without it, all candidates are returned.
        """


def named_entries(detections: Detections | PaddedDetections) -> dict[str, Tensor]:
    """Return the tensors of detections by name, without masks if there are none."""
    return {name: value for name, value in detections._asdict().items() if value is not None}


def check_limits(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Check the options that limit the detected objects.

    Raises:
        ValueError: If a value is out of range.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise OptionError(None, name, value, "must be a number in [0, 1]")
    if max_detections < 1:
        raise OptionError(None, "max_detections", max_detections, "must be at least 1")


def select(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    selection: Selection = _DEFAULT_SELECTION,
    groups: Sequence[int] = (),
) -> Detections:
    """Return the best boxes of an image that do not overlap better ones of their class.

    Args:
        boxes: (L, 4), or (L, K, 4) with a box for each class.
        scores: (L, K).
        size: Height and width that boxes are clipped to.
        score_threshold: Minimum score.
        iou_threshold: Maximum overlap (IoU).
        max_detections: Maximum number of boxes.
        selection: Settings for the boxes that enter non-maximum suppression.
        groups: Sizes of the groups of boxes whose candidates are selected separately; empty for one group.
    """
    scores = scores.float()
    indices, labels, values = [], [], []
    sizes = list(groups) or [len(scores)]
    for start, group in zip(itertools.accumulate(sizes, initial=0), torch.split(scores, sizes), strict=False):
        index, label = (group > score_threshold).nonzero(as_tuple=True)
        score = group[index, label]
        if selection.candidates is not None:
            score, order = score.topk(min(selection.candidates, len(index)))
            index, label = index[order], label[order]
        indices.append(index + start)
        labels.append(label)
        values.append(score)
    index, label, score = torch.cat(indices), torch.cat(labels), torch.cat(values)
    box = clip_boxes_to_image((boxes[index] if boxes.ndim == 2 else boxes[index, label]).float(), size)
    least = selection.least_side
    large = ((box[:, 2] - box[:, 0]) >= least) & ((box[:, 3] - box[:, 1]) >= least)
    box, score, label = box[large], score[large], label[large]
    keep = batched_nms(box, score, label, iou_threshold)[:max_detections]
    return Detections(box[keep], score[keep], label[keep])

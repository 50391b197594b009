"""What all object detectors share.

A detector turns the feature maps of a backbone into raw outputs, these and the objects of a batch into losses, and
the raw outputs into boxes with scores. It knows nothing of batches, metrics or training.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from lit_cv.errors import OptionError
from lit_cv.nn.pyramid import FeaturePyramid

__all__ = [
    "Detections",
    "Detector",
    "check_limits",
    "map_anchors",
    "map_points",
    "select",
]

_CANDIDATES = 1000  # boxes of an image before those that overlap better ones are dropped


class Detections(NamedTuple):
    """Objects found in an image, most certain first.

    Attributes:
        boxes: (n, 4) float32, xyxy in pixels.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module, ABC):
    """Base of the detectors: a feature pyramid with something on top.

    Args:
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        num_classes: Number of classes K, the background not counted.
        strides: Strides of the pyramid's maps, see `FeaturePyramid`.
        channels: Channels of each of them.

    Attributes:
        loss_names: Names of the losses.
    """

    loss_names: ClassVar[tuple[str, ...]]

    def __init__(self, levels: Mapping[int, int], num_classes: int, strides: Sequence[int], channels: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise OptionError(self, "num_classes", num_classes, "a detector finds at least one class of objects")
        self.num_classes = num_classes
        self.pyramid = FeaturePyramid(levels, strides, channels)

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
        """Return of each loss by name a sum, and what it is to be divided by, scalars.

        Args:
            raw: What `forward` gave for N images.
            boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
            labels: N tensors (n,) int64, from 0.
            weight: Weights (K,) of the classes in the loss of the class, where it is about an object.
        """

    def losses(self, raw: Mapping[str, Any], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars whose sum is to be minimised; see `loss_sums`."""
        # Without any object what is expected nowhere counts as if of one.
        sums = self.loss_sums(raw, boxes, labels)
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
        """Return the objects in each image.

        Args:
            raw: What `forward` gave for N images.
            sizes: Height and width of the N images in pixels; what a batch is padded with lies beyond.
            score_threshold: Objects of a lower score are dropped.
            iou_threshold: Of two boxes of one class that overlap more than this the better is kept.
            max_detections: Objects of an image at most.
        """


def check_limits(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Check what limits the objects that are reported.

    Raises:
        ValueError: If a value is out of range.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise OptionError(None, name, value, "give a number in [0, 1]")
    if max_detections < 1:
        raise OptionError(None, "max_detections", max_detections, "give at least 1")


def map_points(maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the centres (L, 2), x and y in pixels, of all places of maps by stride, and their strides (L,)."""
    points, strides = [], []
    for stride, features in maps.items():
        height, width = features.shape[2:]
        y = (torch.arange(height, device=features.device) + 0.5) * stride
        x = (torch.arange(width, device=features.device) + 0.5) * stride
        points.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], 2).flatten(0, 1))
        strides.append(torch.full((height * width,), float(stride), device=features.device))
    return torch.cat(points), torch.cat(strides)


def map_anchors(points: Tensor, strides: Tensor, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Return boxes around places: A = scales times ratios each, (L * A, 4), all of a place one after another.

    Args:
        points: (L, 2), x and y in pixels.
        strides: (L,).
        scales: Square roots of the boxes' areas, in strides.
        ratios: Height / width.
    """
    root = torch.tensor(ratios, device=points.device).sqrt()[:, None]
    scale = torch.tensor(scales, device=points.device)
    sides = torch.stack([(scale / root).flatten(), (scale * root).flatten()], 1)  # (A, 2): width, height
    half = sides * strides[:, None, None] / 2
    return torch.cat([points[:, None] - half, points[:, None] + half], 2).flatten(0, 1)


def select(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    """Return the best boxes of an image that do not overlap better ones of their class.

    Args:
        boxes: (L, 4), or (L, K, 4) with a box for each class.
        scores: (L, K).
        size: Height and width that boxes are clipped to.
        score_threshold: Least score.
        iou_threshold: Greatest overlap.
        max_detections: Number of boxes at most.
    """
    scores = scores.float()
    place, label = (scores > score_threshold).nonzero(as_tuple=True)
    score, order = scores[place, label].topk(min(_CANDIDATES, len(place)))
    place, label = place[order], label[order]
    box = clip_boxes_to_image((boxes[place] if boxes.ndim == 2 else boxes[place, label]).float(), size)
    there = ((box[:, 2] - box[:, 0]) >= 1) & ((box[:, 3] - box[:, 1]) >= 1)
    box, score, label = box[there], score[there], label[there]
    keep = batched_nms(box, score, label, iou_threshold)[:max_detections]
    return Detections(box[keep], score[keep], label[keep])

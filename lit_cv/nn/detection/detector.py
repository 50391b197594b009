"""What all object detectors share.

A detector turns the feature maps of a backbone into raw outputs, these and the objects of a batch into losses, and
the raw outputs into boxes with scores. It knows nothing of batches, metrics or training.
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
    "Selection",
    "check_limits",
    "select",
]

_CANDIDATES = 1000  # boxes before those that overlap better ones are dropped


class Selection(NamedTuple):
    """Which boxes of an image are compared with one another.

    Attributes:
        candidates: Number of the best of each group; `None` for all.
        least_side: Smaller boxes are dropped, in pixels.
    """

    candidates: int | None = _CANDIDATES
    least_side: float = 1.0


_ALL_TOGETHER = Selection()


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
        layout: Structure of a published detector, which has strides and channels of its own.

    Attributes:
        loss_names: Names of the losses.
        selection: Which boxes `detect` chooses among.
    """

    loss_names: ClassVar[tuple[str, ...]]
    selection = _ALL_TOGETHER

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
            raise OptionError(self, "num_classes", num_classes, "a detector finds at least one class of objects")
        self.num_classes = num_classes
        self.layout = layout
        self.pyramid: FeaturePyramid | PublishedPyramid = (
            FeaturePyramid(levels, strides, channels) if layout is None else PublishedPyramid(levels, layout)
        )

    def run_pyramid(self, maps: Mapping[int, Tensor]) -> list[tuple[int, Tensor]]:
        """Return the strides and the maps of the pyramid, finest first."""
        return list(zip(self.pyramid.strides, self.pyramid(maps).values(), strict=True))

    def points(self, pyramid: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return where in the image the places of the maps are, (L, 2) in pixels, and their strides (L,)."""
        return map_points(pyramid) if self.layout is None else published_points(pyramid)

    @staticmethod
    def counts(pyramid: Sequence[tuple[int, Tensor]]) -> list[int]:
        """Return the number of places of each map."""
        return [features.shape[2] * features.shape[3] for _, features in pyramid]

    def groups(self, pyramid: Sequence[tuple[int, Tensor]], boxes: int = 1) -> dict[str, list[int]]:
        """Return the numbers of boxes of each map (`groups`), for a published detector, which judges maps apart.

        Args:
            pyramid: The maps.
            boxes: Number of each place.
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
        """Return the best boxes of each image, see `select`, from the raw outputs of all."""
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


def select(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    selection: Selection = _ALL_TOGETHER,
    groups: Sequence[int] = (),
) -> Detections:
    """Return the best boxes of an image that do not overlap better ones of their class.

    Args:
        boxes: (L, 4), or (L, K, 4) with a box for each class.
        scores: (L, K).
        size: Height and width that boxes are clipped to.
        score_threshold: Least score.
        iou_threshold: Greatest overlap.
        max_detections: Number of boxes at most.
        selection: Which of them are compared.
        groups: Sizes of the groups of boxes that have candidates of their own; empty for a single one.
    """
    scores = scores.float()
    places, labels, values = [], [], []
    sizes = list(groups) or [len(scores)]
    for start, group in zip(itertools.accumulate(sizes, initial=0), torch.split(scores, sizes), strict=False):
        place, label = (group > score_threshold).nonzero(as_tuple=True)
        score = group[place, label]
        if selection.candidates is not None:
            score, order = score.topk(min(selection.candidates, len(place)))
            place, label = place[order], label[order]
        places.append(place + start)
        labels.append(label)
        values.append(score)
    place, label, score = torch.cat(places), torch.cat(labels), torch.cat(values)
    box = clip_boxes_to_image((boxes[place] if boxes.ndim == 2 else boxes[place, label]).float(), size)
    least = selection.least_side
    there = ((box[:, 2] - box[:, 0]) >= least) & ((box[:, 3] - box[:, 1]) >= least)
    box, score, label = box[there], score[there], label[there]
    keep = batched_nms(box, score, label, iou_threshold)[:max_detections]
    return Detections(box[keep], score[keep], label[keep])

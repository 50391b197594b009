"""Detected objects, and their selection among the candidates of an image."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from lit_cv.errors import OptionError

__all__ = ["Detections", "Limits", "PaddedDetections", "Selection", "best", "named_entries", "select"]


class Limits(NamedTuple):
    """Options that limit the detected objects.

    Attributes:
        score_threshold: Objects whose score is not greater are dropped.
        iou_threshold: If two boxes of a class overlap by more than this IoU, only the better one is kept.
        max_detections: Maximum number of objects per image.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.6
    max_detections: int = 100

    def check(self) -> None:
        """Raise ValueError if a value is out of range."""
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise OptionError(None, name, value, "must be a number in [0, 1]")
        if self.max_detections < 1:
            raise OptionError(None, "max_detections", self.max_detections, "must be at least 1")


class Selection(NamedTuple):
    """Settings for the boxes that enter non-maximum suppression.

    Attributes:
        candidates: Number of best-scoring boxes of each group; `None` keeps all.
        least_side: Minimum side of a box in pixels; smaller boxes are dropped.
    """

    candidates: int | None = 1000
    least_side: float = 1.0


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


def named_entries(detections: Detections | PaddedDetections) -> dict[str, Tensor]:
    """Return the tensors of detections by name, without masks if there are none."""
    return {name: value for name, value in detections._asdict().items() if value is not None}


def select(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    limits: Limits,
    selection: Selection,
    groups: Sequence[int] = (),
) -> Detections:
    """Return the best boxes of an image that do not overlap better ones of their class.

    Of boxes with equal scores, the first one is better.

    Args:
        boxes: (L, 4), or (L, K, 4) with a box for each class.
        scores: (L, K).
        size: Height and width that boxes are clipped to.
        limits: Limits of the objects.
        selection: Settings for the boxes that enter non-maximum suppression.
        groups: Sizes of the groups of boxes whose candidates are selected separately; empty for one group.
    """
    scores = scores.float()
    indices, labels, values = [], [], []
    sizes = list(groups) or [len(scores)]
    for start, group in zip(itertools.accumulate(sizes, initial=0), torch.split(scores, sizes), strict=False):
        index, label = (group > limits.score_threshold).nonzero(as_tuple=True)
        score = group[index, label]
        if selection.candidates is not None:
            order = best(score[None], min(selection.candidates, len(index)))[1][0]
            index, label, score = index[order], label[order], score[order]
        indices.append(index + start)
        labels.append(label)
        values.append(score)
    score, order = torch.cat(values).sort(descending=True, stable=True)
    index, label = torch.cat(indices)[order], torch.cat(labels)[order]
    box = clip_boxes_to_image((boxes[index] if boxes.ndim == 2 else boxes[index, label]).float(), size)
    least = selection.least_side
    large = ((box[:, 2] - box[:, 0]) >= least) & ((box[:, 3] - box[:, 1]) >= least)
    box, score, label = box[large], score[large], label[large]
    kept = batched_nms(box, score, label, limits.iou_threshold).sort().values[: limits.max_detections]
    return Detections(box[kept], score[kept], label[kept])


def best(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest of values (N, L) float32 and their positions; of equal ones, the first come first.

    `topk` leaves the order of equal values open, so that a program may select other boxes than the module.

    Example:
        >>> best(torch.tensor([[0.5, 0.7, 0.5, 0.5]]), 3)[1]
        tensor([[1, 0, 2]])
    """
    exact = values.double()
    position = torch.arange(values.shape[1], device=values.device)
    # Steps of 2^-45 in float64 are less than any difference of float32 for up to a million values.
    index = (exact - (exact.abs() + 1e-30) * position * 2.0**-45).topk(count).indices
    return values.gather(1, index), index

"""Detected objects as tensors of fixed sizes, for exported programs."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop
from torchvision.ops import clip_boxes_to_image

from lit_cv.nn.detection.selection import Limits, PaddedDetections, Selection, best

__all__ = ["select_padded", "suppress_ranked", "take_boxes"]

_State = tuple[Tensor, ...]


def select_padded(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    limits: Limits,
    selection: Selection,
    groups: Sequence[int] = (),
    suppress: bool = True,
) -> PaddedDetections:
    """Return the boxes that `select` returns, for a batch and with operations that programs support.

    Args:
        boxes: (N, L, 4), or (N, L, C, 4) with a box for each class.
        scores: (N, L, C) for C classes.
        size: Height and width that boxes are clipped to.
        limits: Limits of the objects; the maximum number is K.
        selection: Settings for the boxes that enter non-maximum suppression.
        groups: Sizes of the groups of locations whose candidates are selected separately; empty for one group.
        suppress: Whether to apply non-maximum suppression. Without it, all candidates are returned, and K is their
            maximum number.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [0.0, 1.0, 8.0, 8.0], [9.0, 9.0, 12.0, 12.0]]])
        >>> scores = torch.tensor([[[0.8], [0.9], [0.4]]])
        >>> select_padded(boxes, scores, (12, 12), Limits(0.05, 0.5, 4), Selection()).scores
        tensor([[0.9000, 0.4000, 0.0000, 0.0000]])
    """
    score_threshold, iou_threshold, max_detections = limits
    boxes, scores, labels = _candidates(boxes, scores.float(), score_threshold, selection, groups)
    boxes = clip_boxes_to_image(boxes.float(), size)
    least = selection.least_side
    large = (boxes[..., 2] - boxes[..., 0] >= least) & (boxes[..., 3] - boxes[..., 1] >= least)
    scores = torch.where(large, scores, 0.0)
    if suppress:
        scores, index = _suppress(boxes, scores, labels, iou_threshold, max_detections)
    else:
        scores, index = best(scores, scores.shape[1])
    used = scores > 0
    boxes, labels = take_boxes(boxes, index), labels.gather(1, index)
    return PaddedDetections(torch.where(used[..., None], boxes, 0.0), scores, torch.where(used, labels, -1))


def _candidates(
    boxes: Tensor, scores: Tensor, score_threshold: float, selection: Selection, groups: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes, scores and labels of the best candidates of each group; a score of 0 marks unused ones."""
    num_classes = scores.shape[2]
    scores = torch.where(scores > score_threshold, scores, 0.0)
    values, indices, start = [], [], 0
    for group in torch.split(scores, list(groups) or [scores.shape[1]], 1):
        count = group.shape[1] * num_classes
        value, index = best(
            group.flatten(1), count if selection.candidates is None else min(selection.candidates, count)
        )
        values.append(value)
        indices.append(index + start * num_classes)
        start += group.shape[1]
    flat = torch.cat(indices, 1)
    box = take_boxes(boxes, flat // num_classes) if boxes.ndim == 3 else take_boxes(boxes.flatten(1, 2), flat)
    return box, torch.cat(values, 1), flat % num_classes


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, rows: int) -> tuple[Tensor, Tensor]:
    """Return the scores and positions (N, rows) that greedy non-maximum suppression keeps, with scores of 0 behind.

    Each round keeps the best box of every image and drops those that overlap it, so that `rows` rounds are exact.
    """
    # Classes are moved apart as in torchvision's `batched_nms`, for the same rounding of the overlaps.
    largest = torch.where(scores > 0, boxes.amax(2), 0.0).amax(1, keepdim=True)
    boxes = boxes + (labels * (largest + 1))[..., None]

    def unfinished(position: Tensor, left: Tensor, kept: Tensor, index: Tensor) -> Tensor:
        return (position < rows) & (left.amax((0, 1)) > 0)

    def keep_best(position: Tensor, left: Tensor, kept: Tensor, index: Tensor) -> _State:
        score, best = left.max(1, keepdim=True)
        overlap = _overlap(take_boxes(boxes, best), boxes)
        left = torch.where(overlap > iou_threshold, 0.0, left).scatter(1, best, 0.0)
        current = torch.arange(rows, device=left.device) == position
        return position + 1, left, torch.where(current, score, kept), torch.where(current, best, index)

    position = torch.zeros((), dtype=torch.int64, device=scores.device)
    kept = scores.new_zeros(scores.shape[0], rows)
    _, _, kept, index = _repeat(unfinished, keep_best, (position, scores, kept, torch.zeros_like(kept).long()))
    return kept, index


def suppress_ranked(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return scores (N, L) that greedy non-maximum suppression sets to 0 where a box overlaps a better one.

    Each round drops the boxes that overlap a better one that the round before kept. The result stops to change after
    as many rounds as the longest chain of boxes that decide on each other: often fewer than ten for thousands of boxes.

    Args:
        boxes: (N, L, 4), best first.
        scores: (N, L), 0 for boxes to ignore.
        iou_threshold: Maximum overlap (IoU).

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [0.0, 1.0, 8.0, 8.0], [9.0, 9.0, 12.0, 12.0]]])
        >>> suppress_ranked(boxes, torch.tensor([[0.9, 0.8, 0.4]]), 0.5)
        tensor([[0.9000, 0.0000, 0.4000]])
    """
    overlapping = (_overlap(boxes[:, :, None], boxes[:, None]) > iou_threshold).float().triu(1)

    def unfinished(kept: Tensor, before: Tensor) -> Tensor:
        return (kept != before).any()

    def drop_overlapping(kept: Tensor, before: Tensor) -> _State:
        overlapped = (kept[:, None] @ overlapping)[:, 0] > 0
        return ((scores > 0) & ~overlapped).float(), kept.clone()

    kept, _ = _repeat(unfinished, drop_overlapping, ((scores > 0).float(), torch.zeros_like(scores)))
    return scores * kept


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of boxes (..., 4), rounded like that of torchvision's `nms`, as float64."""
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    sides = sides.clamp_min(0)
    common = sides[..., 0] * sides[..., 1]
    return (common / (_area(first) + _area(second) - common)).double()


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _repeat(unfinished: Callable[..., Tensor], body: Callable[..., _State], state: _State) -> _State:
    """Apply `body` to tensors while `unfinished` holds for them, as a loop of the program in an export."""
    if torch.compiler.is_compiling():
        return cast(_State, while_loop(unfinished, body, state))  # type: ignore[no-untyped-call]
    while unfinished(*state):
        state = body(*state)
    return state


def take_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Return the boxes (N, K, 4) at positions (N, K)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))

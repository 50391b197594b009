"""Targets and loss sums of FCOS, an anchor-free object detector."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from lit_cv.nn.detection.focal import focal_sum

__all__ = ["centerness", "fcos_assign", "fcos_sums"]


def fcos_sums(
    raw: Mapping[str, Tensor],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    center_radius: float = 1.5,
    weight: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the loss sums of `lit_cv.losses.fcos_loss`, and the number of locations assigned to boxes as a float."""
    points, strides = raw["points"], raw["strides"]
    with torch.autocast(points.device.type, enabled=False):
        logits, distances, quality = (raw[k].float() for k in ("cls_logits", "bbox_regression", "bbox_ctrness"))
        targets, indices = torch.zeros_like(logits), []
        matched_boxes = []
        for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
            matched = fcos_assign(points, strides, image_boxes, center_radius)
            locations = (matched >= 0).nonzero()[:, 0]
            targets[i, locations, image_labels[matched[locations]]] = 1.0
            indices.append(locations + i * len(points))
            matched_boxes.append(image_boxes[matched[locations]])
        positive, truth = torch.cat(indices), torch.cat(matched_boxes).float()
        count = torch.tensor(float(len(positive)), device=points.device)
        point, stride = points[positive % len(points)], strides[positive % len(points), None]
        sides = distances.flatten(0, 1)[positive] * stride
        predicted = torch.cat([point - sides[:, :2], point + sides[:, 2:]], 1)
        centered = centerness(point, truth)
        sums = {
            "class_loss": focal_sum(logits, targets, weight),
            "box_loss": generalized_box_iou_loss(predicted, truth, reduction="sum"),
            "centerness_loss": F.binary_cross_entropy_with_logits(
                quality.flatten()[positive], centered, reduction="sum"
            ),
        }
        return sums, count


def fcos_assign(points: Tensor, strides: Tensor, boxes: Tensor, center_radius: float = 1.5) -> Tensor:
    """Return the index of the box that each location is assigned to, (L,) int64, -1 for none.

    A box is a candidate if it contains the location, its center is within `center_radius` strides, and its farthest
    edge is 4 to 8 strides away; on the finest level there is no lower bound, on the coarsest no upper bound. The
    location is assigned to the candidate with the smallest area.

    Args:
        points: (L, 2), x and y in pixels.
        strides: (L,), in ascending order.
        boxes: (n, 4), xyxy in pixels.
        center_radius: Radius in strides.
    """
    if len(boxes) == 0:
        return torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points[:, None] - centers).abs().amax(2) < center_radius * strides[:, None]
    edges = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], 2)  # (L, n, 4)
    farthest = edges.amax(2)
    lower = torch.where(strides == strides[0], 0.0, 4 * strides)[:, None]
    upper = torch.where(strides == strides[-1], torch.inf, 8 * strides)[:, None]
    fits = near & (edges.amin(2) > 0) & (farthest > lower) & (farthest < upper)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    smallest, index = torch.where(fits, areas, torch.inf).min(1)
    return torch.where(smallest.isinf(), -1, index)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the centerness of locations (P, 2) in their boxes (P, 4): 1 at the center, 0 at an edge (equation 3)."""
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(before, after) / torch.maximum(before, after)
    return ratio.prod(1).clamp_min(0).sqrt()

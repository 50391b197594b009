"""The loss of FCOS, an object detector without anchors."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

__all__ = ["centerness", "fcos_assign", "fcos_loss", "fcos_sums"]


def fcos_loss(
    raw: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], center_radius: float = 1.5
) -> dict[str, Tensor]:
    """Return the three losses of FCOS (Tian et al. 2019; box loss and centre sampling as in its 2020 version).

    The class of every location by the focal loss (alpha 0.25, gamma 2); for those that belong to a box, the box by
    the generalised IoU loss and the centerness by cross-entropy. All are sums, divided by the number of locations
    that belong to a box, computed in float32.

    Args:
        raw: For L locations `cls_logits` (N, L, K), `bbox_regression` (N, L, 4), the distances to the left, top,
            right and bottom edge in strides, `bbox_ctrness` (N, L, 1), `points` (L, 2), x and y in pixels, and
            `strides` (L,), in rising order.
        boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
        labels: N tensors (n,) int64, from 0.
        center_radius: See `fcos_assign`.

    Returns:
        `class_loss`, `box_loss` and `centerness_loss`, scalars.

    Example:
        >>> raw = {"cls_logits": torch.zeros(1, 1, 2), "bbox_regression": torch.ones(1, 1, 4),
        ...        "bbox_ctrness": torch.zeros(1, 1, 1), "points": torch.tensor([[4.0, 4.0]]),
        ...        "strides": torch.tensor([8.0])}
        >>> losses = fcos_loss(raw, [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([1])])
        >>> {name: round(float(loss), 4) for name, loss in losses.items()}
        {'class_loss': 0.1733, 'box_loss': 0.0, 'centerness_loss': 0.6931}
    """
    sums, count = fcos_sums(raw, boxes, labels, center_radius)
    return {name: total / count.clamp_min(1) for name, total in sums.items()}


def fcos_sums(
    raw: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], center_radius: float = 1.5
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the sums that `fcos_loss` divides, and the number of locations that belong to a box, a float scalar."""
    points, strides = raw["points"], raw["strides"]
    with torch.autocast(points.device.type, enabled=False):
        logits, distances, quality = (raw[k].float() for k in ("cls_logits", "bbox_regression", "bbox_ctrness"))
        targets, classes = torch.zeros_like(logits), []
        wanted = []
        for i, (own, kinds) in enumerate(zip(boxes, labels, strict=True)):
            matched = fcos_assign(points, strides, own, center_radius)
            places = (matched >= 0).nonzero()[:, 0]
            targets[i, places, kinds[matched[places]]] = 1.0
            classes.append(places + i * len(points))
            wanted.append(own[matched[places]])
        positive, truth = torch.cat(classes), torch.cat(wanted).float()
        count = torch.tensor(float(len(positive)), device=points.device)
        point, stride = points[positive % len(points)], strides[positive % len(points), None]
        reach = distances.flatten(0, 1)[positive] * stride
        predicted = torch.cat([point - reach[:, :2], point + reach[:, 2:]], 1)
        centered = centerness(point, truth)
        sums = {
            "class_loss": sigmoid_focal_loss(logits, targets, reduction="sum"),
            "box_loss": generalized_box_iou_loss(predicted, truth, reduction="sum"),
            "centerness_loss": F.binary_cross_entropy_with_logits(
                quality.flatten()[positive], centered, reduction="sum"
            ),
        }
        return sums, count


def fcos_assign(points: Tensor, strides: Tensor, boxes: Tensor, center_radius: float = 1.5) -> Tensor:
    """Return which box each location belongs to, (L,) int64, -1 for none.

    A location belongs to the smallest of the boxes that it lies in, within `center_radius` strides of the centre, and
    whose farthest edge is between 4 and 8 strides away; the finest level takes all nearer, the coarsest all farther.

    Args:
        points: (L, 2), x and y in pixels.
        strides: (L,), in rising order.
        boxes: (n, 4), xyxy in pixels.
        center_radius: In strides.
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
    """Return how central locations (P, 2) are in their boxes (P, 4): 1 in the middle, 0 at an edge (equation 3)."""
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(before, after) / torch.maximum(before, after)
    return ratio.prod(1).clamp_min(0).sqrt()

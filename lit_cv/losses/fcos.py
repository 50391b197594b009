"""The loss of FCOS, an anchor-free object detector."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lit_cv.nn.detection.fcos_targets import fcos_sums

__all__ = ["fcos_loss"]


def fcos_loss(
    raw: Mapping[str, Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], center_radius: float = 1.5
) -> dict[str, Tensor]:
    """Return the three losses of FCOS (Tian et al. 2019; box loss and center sampling as in its 2020 version).

    The class loss is the focal loss (alpha 0.25, gamma 2) of all locations. For locations assigned to a box, the box
    loss is the generalized IoU loss, and the centerness loss is the cross-entropy. All are sums divided by the number
    of locations assigned to a box, computed in float32.

    Args:
        raw: Raw outputs for L locations: `cls_logits` (N, L, K), `bbox_regression` (N, L, 4), the distances to the
            left, top, right and bottom edge in strides, `bbox_ctrness` (N, L, 1), `points` (L, 2), x and y in pixels,
            and `strides` (L,), in ascending order.
        boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
        labels: N tensors (n,) int64, from 0.
        center_radius: See `fcos_assign`.

    Returns:
        `class_loss`, `box_loss` and `centerness_loss`, scalars.

    Example:
        >>> import torch
        >>> raw = {"cls_logits": torch.zeros(1, 1, 2), "bbox_regression": torch.ones(1, 1, 4),
        ...        "bbox_ctrness": torch.zeros(1, 1, 1), "points": torch.tensor([[4.0, 4.0]]),
        ...        "strides": torch.tensor([8.0])}
        >>> losses = fcos_loss(raw, [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([1])])
        >>> {name: round(float(loss), 4) for name, loss in losses.items()}
        {'class_loss': 0.1733, 'box_loss': 0.0, 'centerness_loss': 0.6931}
    """
    sums, count = fcos_sums(raw, boxes, labels, center_radius)
    return {name: total / count.clamp_min(1) for name, total in sums.items()}

"""RetinaNet, an anchor-based detector."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from lit_cv.nn.detection.focal import focal_sum
from lit_cv.nn.detection.layouts import Layout
from lit_cv.nn.detection.one_stage import OneStageDetector
from lit_cv.nn.detection.places import map_anchors, place_boxes
from lit_cv.nn.detection.selection import Selection

__all__ = ["RetinaNetDetector"]

_SCALES = tuple(4 * 2 ** (i / 3) for i in range(3))
_RATIOS = (0.5, 1.0, 2.0)


class RetinaNetDetector(OneStageDetector):
    """RetinaNet (Lin et al. 2017), with nine anchors at every location of the pyramid and the focal loss.

    The head, the matching (IoU 0.5 and 0.4) and the box loss are torchvision's; the class loss equals torchvision's.

    Args:
        levels: Channels of the backbone's maps by stride.
        num_classes: Number of classes, without the background.
        strides: Strides of the pyramid's maps.
        channels: Channels of each of these maps.
        num_convs: Number of convolutions kept in each branch of torchvision's head, which has 4.
        layout: Structure of a published detector, which replaces the previous three.
    """

    loss_names = ("class_loss", "box_loss")

    def __init__(
        self,
        levels: Mapping[int, int],
        num_classes: int,
        strides: Sequence[int],
        channels: int,
        num_convs: int,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(levels, num_classes, strides, channels, layout)
        norm = None
        if layout is not None:
            channels, num_convs = layout.channels, layout.num_convs
            norm = partial(nn.GroupNorm, 32) if layout.normalized else None
            self.selection = Selection(least_side=0.0)
        self.head = RetinaNetHead(channels, len(_SCALES) * len(_RATIOS), num_classes, norm)
        for branch in (self.head.classification_head, self.head.regression_head):
            branch.conv = branch.conv[:num_convs]
        self.head.regression_head._loss_type = "l1" if layout is None else layout.box_loss
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def forward(self, maps: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return `cls_logits` (N, L, K) and `bbox_regression` (N, L, 4) for L anchors, and the `anchors` (L, 4)."""
        pyramid = self.run_pyramid(maps)
        points, strides = self.points(pyramid)
        if self.layout is None:
            anchors = map_anchors(points, strides, _SCALES, _RATIOS)
        else:
            anchors = place_boxes(points, self.counts(pyramid), self.layout.sides, _RATIOS)
        outputs = self.head([features for _, features in pyramid])
        return {**outputs, "anchors": anchors, **self.groups(pyramid, len(_SCALES) * len(_RATIOS))}

    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return `class_loss`, the focal loss, and `box_loss`, the L1 or GIoU loss, with the number of images."""
        anchors = raw["anchors"]
        with torch.autocast(anchors.device.type, enabled=False):
            targets = [
                {"boxes": image_boxes, "labels": image_labels}
                for image_boxes, image_labels in zip(boxes, labels, strict=True)
            ]
            unmatched = torch.full_like(anchors[:, 0], -1).long()
            matched = [
                self.matcher(box_iou(image_boxes, anchors)) if len(image_boxes) else unmatched for image_boxes in boxes
            ]
            outputs = {name: raw[name].float() for name in ("cls_logits", "bbox_regression")}
            boxes_loss = self.head.regression_head.compute_loss(targets, outputs, [anchors] * len(targets), matched)
            classes_loss = torch.stack([
                self._class_loss(logits, image_labels, matches, weight)
                for logits, image_labels, matches in zip(outputs["cls_logits"], labels, matched, strict=True)
            ]).sum()  # fmt: skip
        n = torch.tensor(float(len(targets)), device=anchors.device)
        return {"class_loss": (classes_loss, n), "box_loss": (boxes_loss * n, n)}

    def _class_loss(self, logits: Tensor, labels: Tensor, matched: Tensor, weight: Tensor | None) -> Tensor:
        """Return the focal loss of an image per matched anchor, ignoring anchors between the two IoU thresholds."""
        positive, decided = matched >= 0, matched != self.matcher.BETWEEN_THRESHOLDS
        targets = torch.zeros_like(logits)
        targets[positive, labels[matched[positive]]] = 1.0
        return focal_sum(logits[decided], targets[decided], weight) / positive.sum().clamp_min(1)

    def decode(self, raw: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the boxes and scores of all anchors, see `OneStageDetector.decode`."""
        deltas = raw["bbox_regression"].float()
        anchors = raw["anchors"].expand(deltas.shape[0], -1, -1)
        boxes = self.coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view(deltas.shape), raw["cls_logits"].float().sigmoid()

"""Mask R-CNN, a two-stage detector that also predicts the pixels of each object."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import (
    expand_boxes,
    expand_masks,
    maskrcnn_inference,
    maskrcnn_loss,
    paste_masks_in_image,
)
from torchvision.ops import MultiScaleRoIAlign

from lit_cv.nn.detection.faster_rcnn import FasterRCNNDetector
from lit_cv.nn.detection.layouts import Layout
from lit_cv.nn.detection.selection import Detections, Limits, PaddedDetections

__all__ = ["MaskRCNNDetector"]

_SIDE = 14  # side of the features pooled for a mask, which has twice as many pixels per side
_DEPTH = 4  # convolutions of the mask head


class MaskRCNNDetector(FasterRCNNDetector):
    """Mask R-CNN (He et al. 2017): Faster R-CNN with a network that predicts a mask in the box of each object.

    The mask head and its loss are torchvision's. In training, it sees the sampled proposals that match an object whose
    mask is not empty. lit_cv's structure samples 128 proposals of an image, a quarter of torchvision's number, as a
    mask takes much longer than a box.

    Args:
        levels: Channels of the backbone's maps by stride.
        num_classes: Number of classes, without the background.
        strides: Strides of the pyramid's maps.
        channels: Channels of each of these maps and of the mask head.
        num_convs: Convolutions of the region proposal network.
        layout: Structure of a published detector, which replaces the previous three.
        other_classes: Number of further classes that are reported as background.
    """

    loss_names: ClassVar[tuple[str, ...]] = (*FasterRCNNDetector.loss_names, "mask_loss")
    predicts_masks: ClassVar[bool] = True
    samples: ClassVar[int] = 128

    def __init__(
        self,
        levels: Mapping[int, int],
        num_classes: int,
        strides: Sequence[int],
        channels: int,
        num_convs: int,
        layout: Layout | None = None,
        other_classes: int = 0,
    ) -> None:
        super().__init__(levels, num_classes, strides, channels, num_convs, layout, other_classes)
        channels = channels if layout is None else layout.channels
        norm = nn.BatchNorm2d if layout is not None and layout.normalized else None
        self.roi.mask_roi_pool = MultiScaleRoIAlign(self.roi.box_roi_pool.featmap_names, _SIDE, 2)
        self.roi.mask_head = MaskRCNNHeads(channels, [channels] * _DEPTH, 1, norm)
        self.roi.mask_predictor = MaskRCNNPredictor(channels, channels, 1 + num_classes + other_classes)

    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the losses of Faster R-CNN, and `mask_loss` with the number of proposals that it sees as its count.

        Args:
            raw: Output of `forward` for N images.
            boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
            labels: N tensors (n,) int64, from 0.
            weight: Weights (K,) of the classes in the classification loss of objects.
            masks: N tensors (n, H, W), bool or uint8, the pixels of each object; all 0 if unknown.

        Raises:
            ValueError: If there are no masks.
        """
        if masks is None:
            raise ValueError("Mask R-CNN learns from the masks of objects: give `masks`, a list of (n, H, W).")
        sums, sampled = self._box_losses(raw, boxes, labels, weight, masks=masks)
        known = [image_masks.flatten(1).any(1) for image_masks in masks]
        proposals, matched = [], []
        for image_proposals, indices, classes, has_mask in zip(*sampled, known, strict=True):
            chosen = classes > 0
            chosen[chosen.clone()] = has_mask[indices[chosen]]
            proposals.append(image_proposals[chosen])
            matched.append(indices[chosen])
        logits = self._mask_logits(raw, proposals)
        with torch.autocast(logits.device.type, enabled=False):
            loss = maskrcnn_loss(logits, proposals, masks, [each + 1 for each in labels], matched)
        count = torch.tensor(float(sum(map(len, proposals))), device=logits.device)
        return {**sums, "mask_loss": (loss * count.clamp_min(1), count)}

    @torch.no_grad()
    def detect(
        self,
        raw: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        limits: Limits,
    ) -> list[Detections]:
        """Return the detected objects with `masks` in each image, see `Detector.detect`."""
        found = super().detect(raw, sizes, limits)
        logits = self._mask_logits(raw, [each.boxes for each in found])
        masks = maskrcnn_inference(logits, [each.labels + 1 for each in found])
        return [
            each._replace(masks=_paste(image_masks, each.boxes, size))
            for each, image_masks, size in zip(found, masks, sizes, strict=True)
        ]

    def detect_padded(
        self,
        raw: Mapping[str, Any],
        size: tuple[int, int],
        limits: Limits,
        suppress: bool = True,
    ) -> PaddedDetections:
        """Return the objects of `detect` as tensors of fixed sizes, see `Detector.detect_padded`.

        Candidates, which are returned without non-maximum suppression, have no masks.
        """
        found = super().detect_padded(raw, size, limits, suppress)
        if not suppress:
            return found
        pooled = self.pool_padded(raw, found.boxes, self.roi.mask_roi_pool)
        logits = self.roi.mask_predictor(self.roi.mask_head(pooled)).float()
        labels = (found.labels.flatten() + 1)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        masks = _paste_padded(logits.gather(1, labels).sigmoid()[:, 0], found.boxes.flatten(0, 1), size)
        masks = masks.view(*found.scores.shape, *size) & (found.scores > 0)[..., None, None]
        return found._replace(masks=masks.to(torch.uint8))

    def _mask_logits(self, raw: Mapping[str, Any], boxes: list[Tensor]) -> Tensor:
        """Return the masks of all classes in boxes, (total number of boxes, 1 + number of classes, 28, 28)."""
        pooled = self.roi.mask_roi_pool(raw["features"], boxes, [raw["size"]] * len(boxes))
        logits: Tensor = self.roi.mask_predictor(self.roi.mask_head(pooled))
        return logits.float()


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, 1, 28, 28) of probabilities in boxes as pixels of an image, (n, *size) bool."""
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    for k in range(len(masks)):  # one at a time, as the probabilities need four times as much memory
        pasted[k] = paste_masks_in_image(masks[k : k + 1], boxes[k : k + 1], size)[0, 0] > 0.5
    return pasted


def _paste_padded(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what `_paste` returns for masks (n, 28, 28), computed by matrix products, which programs support."""
    padded, scale = expand_masks(masks, padding=1)
    expanded = expand_boxes(boxes, scale).long()
    rows, columns = (
        _interpolation(expanded[:, axis], expanded[:, axis + 2], side, padded.shape[-1])
        for axis, side in ((1, size[0]), (0, size[1]))
    )
    probabilities: Tensor = rows @ padded @ columns.transpose(1, 2)
    return probabilities > 0.5


def _interpolation(start: Tensor, end: Tensor, side: int, source: int) -> Tensor:
    """Return weights (n, side, source) that interpolate `source` values between the pixels `start` and `end` (n,)."""
    pixel = torch.arange(side, device=start.device) - start[:, None]
    length = (end - start + 1).clamp_min(1)[:, None]
    position = ((pixel + 0.5) * (source / length) - 0.5).clamp(0, source - 1)
    weights = (1 - (position[..., None] - torch.arange(source, device=start.device)).abs()).clamp_min(0)
    return weights * ((pixel >= 0) & (pixel < length))[..., None]

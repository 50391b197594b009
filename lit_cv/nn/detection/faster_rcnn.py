"""Faster R-CNN, a two-stage detector."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from lit_cv.nn.detection.detector import Detections, Detector, Selection
from lit_cv.nn.detection.layouts import Layout
from lit_cv.nn.detection.places import map_anchors, place_boxes

__all__ = ["FasterRCNNDetector"]

_SCALES = (8.0,)  # in strides, as in Lin et al. 2017
_RATIOS = (0.5, 1.0, 2.0)
_SIDE = 7  # side of the features pooled for a proposal


class FasterRCNNDetector(Detector):
    """Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017).

    A region proposal network proposes boxes; a second network classifies and refines them by their pooled features.
    Both are torchvision's, with its numbers of proposals and samples, drawn from torch's default generator.

    Args:
        levels: Channels of the backbone's maps by stride.
        num_classes: Number of classes, without the background.
        strides: Strides of the pyramid's maps.
        channels: Channels of each of these maps; the second network has four times as many.
        num_convs: Convolutions of the region proposal network.
        layout: Structure of a published detector, which replaces the previous three.
        other_classes: Number of further classes that are reported as background.
    """

    loss_names = ("class_loss", "box_loss", "objectness_loss", "rpn_box_loss")

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
        super().__init__(levels, num_classes, strides, channels, layout)
        proposals, least, depth, anchors = 1000, 0.0, num_convs, len(_SCALES)
        if layout is not None:
            channels, depth, anchors = layout.channels, layout.num_convs, len(layout.sides[0])
            proposals, least = layout.proposals, layout.proposal_score
            self.selection = Selection(None, 1e-2)
        counts = {"training": 2000, "testing": proposals}
        head = RPNHead(channels, anchors * len(_RATIOS), depth)
        self.rpn = RegionProposalNetwork(None, head, 0.7, 0.3, 256, 0.5, counts, counts, 0.7, least)
        pooled = len(strides if layout is None else layout.sources)
        hidden = 4 * channels
        self.roi = RoIHeads(
            MultiScaleRoIAlign([str(i) for i in range(pooled)], _SIDE, 2),
            _box_head(channels, hidden, layout is not None and layout.normalized),
            FastRCNNPredictor(hidden, 1 + num_classes + other_classes),  # class 0 is the background
            *(0.5, 0.5, 512, 0.25, None),
            *(0.05, 0.5, 100),  # unused: `detect` has its own limits
        )

    def forward(self, maps: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return the pyramid's `features`, and `objectness` (N * L, 1), `deltas` (N * L, 4), `anchors` (L, 4)."""
        pyramid = self.run_pyramid(maps)
        features = [out for _, out in pyramid]
        objectness, deltas = self.rpn.head(features)
        counts = [out[0].numel() for out in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        points, strides = self.points(pyramid)
        if self.layout is None:
            anchors = map_anchors(points, strides, _SCALES, _RATIOS)
        else:
            anchors = place_boxes(points, self.counts(pyramid), self.layout.sides, _RATIOS)
        finest, out = pyramid[0]
        return {
            "features": {str(i): out for i, out in enumerate(features)}, "objectness": objectness, "deltas": deltas,
            "anchors": anchors, "counts": counts, "size": (out.shape[2] * finest, out.shape[3] * finest),
        }  # fmt: skip

    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the losses of both networks.

        `class_loss` and `box_loss` have the number of sampled proposals as their count. `objectness_loss` and
        `rpn_box_loss`, those of the region proposal network, have the number of sampled anchors.
        """
        n = len(boxes)
        anchors = [raw["anchors"]] * n
        targets = [
            {"boxes": image_boxes.float(), "labels": image_labels + 1}
            for image_boxes, image_labels in zip(boxes, labels, strict=True)
        ]
        objectness, deltas = raw["objectness"].float(), raw["deltas"].float()
        matched, matched_boxes = self.rpn.assign_targets_to_anchors(anchors, targets)
        encoded = self.rpn.box_coder.encode(matched_boxes, anchors)
        objectness_loss, rpn_box_loss = self.rpn.compute_loss(objectness, deltas, matched, encoded)
        proposals = self._propose(raw, [raw["size"]] * n)
        proposals, _, classes, encoded = self.roi.select_training_samples(proposals, targets)
        logits, corrections = self._classify(raw, proposals)
        class_loss, box_loss = fastrcnn_loss(logits, corrections, classes, encoded)
        drawn = torch.tensor(float(sum(map(len, proposals))), device=objectness.device)
        sampled = torch.stack([self._count_sampled(anchor_labels) for anchor_labels in matched]).sum().float()
        by_class = (class_loss * drawn, drawn) if weight is None else _weighted(logits, torch.cat(classes), weight)
        return {
            "class_loss": by_class, "box_loss": (box_loss * drawn, drawn),
            "objectness_loss": (objectness_loss * sampled, sampled), "rpn_box_loss": (rpn_box_loss * sampled, sampled),
        }  # fmt: skip

    def _count_sampled(self, matched: Tensor) -> Tensor:
        """Return the number of sampled anchors of an image from their labels, 1 for objects and 0 for background."""
        sampler = self.rpn.fg_bg_sampler
        objects = (matched >= 1).sum().clamp_max(int(sampler.batch_size_per_image * sampler.positive_fraction))
        return objects + torch.minimum(sampler.batch_size_per_image - objects, (matched == 0).sum())

    @torch.no_grad()
    def detect(
        self,
        raw: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> list[Detections]:
        """Return the detected objects in each image, see `Detector.detect`."""
        proposals = self._propose(raw, sizes)
        logits, corrections = self._classify(raw, proposals)
        counts = [len(image_proposals) for image_proposals in proposals]
        classes = slice(1, 1 + self.num_classes)
        scores = torch.split(logits.softmax(1)[:, classes], counts)
        boxes = torch.split(self.roi.box_coder.decode(corrections, proposals)[:, classes], counts)
        return self.select_each(boxes, scores, sizes, (score_threshold, iou_threshold, max_detections), raw)

    def _propose(self, raw: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        n = len(sizes)
        deltas = raw["deltas"].detach().float()
        boxes = self.rpn.box_coder.decode(deltas, [raw["anchors"]] * n).view(n, -1, 4)
        proposals: list[Tensor] = self.rpn.filter_proposals(boxes, raw["objectness"].float(), sizes, raw["counts"])[0]
        return proposals

    def _classify(self, raw: Mapping[str, Any], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.roi.box_roi_pool(raw["features"], proposals, [raw["size"]] * len(proposals))
        logits, corrections = self.roi.box_predictor(self.roi.box_head(pooled))
        return logits.float(), corrections.float()


def _weighted(logits: Tensor, classes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the weighted cross-entropy of proposals and the sum of weights; the background's is 1."""
    others = logits.shape[1] - 1 - len(weight)  # outputs of `other_classes`, which no target has
    weights = torch.cat([weight.new_ones(1), weight, weight.new_ones(others)])
    return F.cross_entropy(logits, classes, weights, reduction="sum"), weights[classes].sum()


def _box_head(channels: int, hidden: int, normalized: bool) -> nn.Module:
    """Return the network between the pooled features of a proposal and the classifier."""
    head: nn.Module = TwoMLPHead(channels * _SIDE**2, hidden)
    if normalized:
        head = FastRCNNConvFCHead((channels, _SIDE, _SIDE), [channels] * 4, [hidden], nn.BatchNorm2d)
    return head

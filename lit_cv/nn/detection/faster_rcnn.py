"""Faster R-CNN, a two-stage detector."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align
from torchvision.ops.poolers import LevelMapper

from lit_cv.nn.detection.detector import Detector
from lit_cv.nn.detection.layouts import Layout
from lit_cv.nn.detection.padded import select_padded, suppress_ranked, take_boxes
from lit_cv.nn.detection.places import map_anchors, place_boxes
from lit_cv.nn.detection.selection import Detections, Limits, PaddedDetections, Selection, best

__all__ = ["FasterRCNNDetector"]

_SCALES = (8.0,)  # in strides, as in Lin et al. 2017
_RATIOS = (0.5, 1.0, 2.0)
_SIDE = 7  # side of the features pooled for a proposal
_SAMPLES = 512  # proposals of an image that train the second network, a quarter of them at most with an object


class _Sampled(NamedTuple):
    """Proposals sampled for training, of each image.

    Attributes:
        proposals: (m, 4), xyxy in pixels.
        indices: Positions (m,) of the objects that they match; 0 for the background.
        classes: Classes (m,) from 1; 0 for the background.
    """

    proposals: list[Tensor]
    indices: list[Tensor]
    classes: list[Tensor]


class _RegionProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's network; of proposals with equal scores, it keeps the first, as exported programs do."""

    def _get_top_n_idx(self, objectness: Tensor, num_anchors_per_level: list[int]) -> Tensor:
        levels = torch.split(objectness, num_anchors_per_level, 1)
        starts = itertools.accumulate(num_anchors_per_level, initial=0)
        kept = [best(level, min(self.pre_nms_top_n(), level.shape[1]))[1] for level in levels]
        return torch.cat([index + start for index, start in zip(kept, starts, strict=False)], 1)


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

    Attributes:
        samples: Number of proposals of an image that train the second network of lit_cv's structure.
    """

    samples: ClassVar[int] = _SAMPLES
    loss_names: ClassVar[tuple[str, ...]] = ("class_loss", "box_loss", "objectness_loss", "rpn_box_loss")

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
        self.rpn = _RegionProposalNetwork(None, head, 0.7, 0.3, 256, 0.5, counts, counts, 0.7, least)
        pooled = len(strides if layout is None else layout.sources)
        hidden = 4 * channels
        self.roi = RoIHeads(
            MultiScaleRoIAlign([str(i) for i in range(pooled)], _SIDE, 2),
            _box_head(channels, hidden, layout is not None and layout.normalized),
            FastRCNNPredictor(hidden, 1 + num_classes + other_classes),  # class 0 is the background
            *(0.5, 0.5, _SAMPLES if layout is not None else self.samples, 0.25, None),
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
        return self._box_losses(raw, boxes, labels, weight)[0]

    def _box_losses(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None,
        **others: Sequence[Tensor],
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], _Sampled]:
        """Return the losses, see `loss_sums`, and the sampled proposals; `others` are further targets by name."""
        n = len(boxes)
        anchors = [raw["anchors"]] * n
        targets = [
            {"boxes": image_boxes.float(), "labels": image_labels + 1} | dict(zip(others, further, strict=True))
            for image_boxes, image_labels, *further in zip(boxes, labels, *others.values(), strict=True)
        ]
        objectness, deltas = raw["objectness"].float(), raw["deltas"].float()
        matched, matched_boxes = self.rpn.assign_targets_to_anchors(anchors, targets)
        encoded = self.rpn.box_coder.encode(matched_boxes, anchors)
        objectness_loss, rpn_box_loss = self.rpn.compute_loss(objectness, deltas, matched, encoded)
        proposals = self._propose(raw, [raw["size"]] * n)
        proposals, indices, classes, encoded = self.roi.select_training_samples(proposals, targets)
        logits, corrections = self._classify(raw, proposals)
        class_loss, box_loss = fastrcnn_loss(logits, corrections, classes, encoded)
        drawn = torch.tensor(float(sum(map(len, proposals))), device=objectness.device)
        sampled = torch.stack([self._count_sampled(anchor_labels) for anchor_labels in matched]).sum().float()
        by_class = (class_loss * drawn, drawn) if weight is None else _weighted(logits, torch.cat(classes), weight)
        sums = {
            "class_loss": by_class, "box_loss": (box_loss * drawn, drawn),
            "objectness_loss": (objectness_loss * sampled, sampled), "rpn_box_loss": (rpn_box_loss * sampled, sampled),
        }  # fmt: skip
        return sums, _Sampled(proposals, indices, classes)

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
        limits: Limits,
    ) -> list[Detections]:
        """Return the detected objects in each image, see `Detector.detect`."""
        proposals = self._propose(raw, sizes)
        logits, corrections = self._classify(raw, proposals)
        counts = [len(image_proposals) for image_proposals in proposals]
        classes = slice(1, 1 + self.num_classes)
        scores = torch.split(logits.softmax(1)[:, classes], counts)
        boxes = torch.split(self.roi.box_coder.decode(corrections, proposals)[:, classes], counts)
        return self.select_each(boxes, scores, sizes, limits, raw)

    def detect_padded(
        self,
        raw: Mapping[str, Any],
        size: tuple[int, int],
        limits: Limits,
        suppress: bool = True,
    ) -> PaddedDetections:
        """Return the objects of `detect` as tensors of fixed sizes, see `Detector.detect_padded`.

        The proposals always pass the non-maximum suppression of the region proposal network.
        """
        proposals, used = self._propose_padded(raw, size)
        n, count = used.shape
        logits, corrections = self._classify_pooled(self.pool_padded(raw, proposals, self.roi.box_roi_pool))
        classes = slice(1, 1 + self.num_classes)
        scores = logits.softmax(1)[:, classes].reshape(n, count, -1) * used[..., None]
        boxes = self.roi.box_coder.decode_single(corrections, proposals.flatten(0, 1))
        boxes = boxes.view(n, count, -1, 4)[:, :, classes]
        return select_padded(boxes, scores, size, limits, self.selection, raw.get("groups", ()), suppress)

    def _propose_padded(self, raw: Mapping[str, Any], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the proposals (N, P, 4) of each image, best first, and which of these rows are used, (N, P) bool."""
        rpn, counts = self.rpn, raw["counts"]
        objectness = raw["objectness"].float().view(-1, sum(counts))
        anchors = raw["anchors"].expand(objectness.shape[0], -1, -1).flatten(0, 1)
        boxes = rpn.box_coder.decode_single(raw["deltas"].float(), anchors).view(-1, sum(counts), 4)
        ranked, kept = [], []
        for level_boxes, logits in zip(boxes.split(counts, 1), objectness.split(counts, 1), strict=True):
            top, index = best(logits, min(rpn.pre_nms_top_n(), logits.shape[1]))
            box = clip_boxes_to_image(take_boxes(level_boxes, index), size)
            score = top.sigmoid()
            valid = ((box[..., 2:] - box[..., :2]) >= rpn.min_size).all(2) & (score >= rpn.score_thresh)
            kept.append(suppress_ranked(box, torch.where(valid, score, 0.0), rpn.nms_thresh))
            ranked.append(box)
        scores, candidates = torch.cat(kept, 1), torch.cat(ranked, 1)
        scores, index = best(scores, min(rpn.post_nms_top_n(), scores.shape[1]))
        return take_boxes(candidates, index), scores > 0

    def pool_padded(self, raw: Mapping[str, Any], boxes: Tensor, pool: MultiScaleRoIAlign) -> Tensor:
        """Return the features (N * P, C, S, S) that `pool` returns for boxes (N, P, 4), where S is its output side."""
        side = pool.output_size[0]
        maps = [raw["features"][name] for name in pool.featmap_names]
        exponents = [round(math.log2(raw["size"][0] / features.shape[2])) for features in maps]  # as torchvision's
        level_of = LevelMapper(exponents[0], exponents[-1], pool.canonical_scale, pool.canonical_level)
        image = torch.arange(boxes.shape[0], device=boxes.device).to(boxes.dtype)
        rois = torch.cat([image[:, None, None].expand(-1, boxes.shape[1], 1), boxes], 2).flatten(0, 1)
        levels = level_of([rois[:, 1:]])
        pooled: Tensor = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], side, side)
        for level, (features, exponent) in enumerate(zip(maps, exponents, strict=True)):
            index = (levels == level).nonzero()[:, 0]
            part = roi_align(features, rois[index], side, 0.5**exponent, pool.sampling_ratio)
            pooled = pooled.index_copy(0, index, part)
        return pooled

    def _propose(self, raw: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        n = len(sizes)
        deltas = raw["deltas"].detach().float()
        boxes = self.rpn.box_coder.decode(deltas, [raw["anchors"]] * n).view(n, -1, 4)
        proposals: list[Tensor] = self.rpn.filter_proposals(boxes, raw["objectness"].float(), sizes, raw["counts"])[0]
        return proposals

    def _classify(self, raw: Mapping[str, Any], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.roi.box_roi_pool(raw["features"], proposals, [raw["size"]] * len(proposals))
        return self._classify_pooled(pooled)

    def _classify_pooled(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (P, classes) and the box corrections (P, 4 * classes) for pooled features."""
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

"""FCOS, a detector without anchors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead

from lit_cv.nn.detection.fcos_targets import fcos_sums
from lit_cv.nn.detection.layouts import Layout
from lit_cv.nn.detection.one_stage import OneStageDetector
from lit_cv.nn.detection.selection import Selection

__all__ = ["FCOSDetector"]

_FIRST_DISTANCE = 1.0  # initial distance from a location to each side of its box, in strides


class FCOSDetector(OneStageDetector):
    """FCOS (Tian et al. 2019), which predicts a class, a box and a centerness at every location of the pyramid.

    The head is torchvision's; the losses are those of `lit_cv.losses.fcos_loss`. The score of an object is the square
    root of the class probability times the centerness.

    Args:
        levels: Channels of the backbone's maps by stride.
        num_classes: Number of classes, without the background.
        strides: Strides of the pyramid's maps.
        channels: Channels of each of these maps.
        num_convs: Convolutions in each branch of the head.
        layout: Structure of a published detector, which replaces the previous three.
    """

    loss_names = ("class_loss", "box_loss", "centerness_loss")

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
        if layout is not None:
            channels, num_convs = layout.channels, layout.num_convs
            self.selection = Selection(least_side=0.0)
        self.head = FCOSHead(channels, 1, num_classes, num_convs)
        # Distances pass a ReLU. With a bias of 0, one side may be negative at all locations and get no gradient.
        nn.init.constant_(self.head.regression_head.bbox_reg.bias, _FIRST_DISTANCE)

    def forward(self, maps: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return the raw outputs, the inputs of `lit_cv.losses.fcos_loss`."""
        pyramid = self.run_pyramid(maps)
        points, strides = self.points(pyramid)
        outputs = self.head([features for _, features in pyramid])
        return {**outputs, "points": points, "strides": strides, **self.groups(pyramid)}

    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return `class_loss`, `box_loss` and `centerness_loss`, with the number of locations assigned to a box."""
        sums, count = fcos_sums(raw, boxes, labels, weight=weight)
        return {name: (total, count) for name, total in sums.items()}

    def decode(self, raw: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the boxes and scores of all locations, see `OneStageDetector.decode`."""
        distances = raw["bbox_regression"].float() * raw["strides"][:, None]
        boxes = torch.cat([raw["points"] - distances[..., :2], raw["points"] + distances[..., 2:]], -1)
        return boxes, (raw["cls_logits"].float().sigmoid() * raw["bbox_ctrness"].float().sigmoid()).sqrt()

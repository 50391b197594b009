"""The base class of object detectors.

A detector computes raw outputs from the feature maps of a backbone, losses from the raw outputs and the ground truth,
and boxes with scores from the raw outputs. It is independent of batches, metrics and training.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.nn.detection.layouts import Layout, PublishedPyramid
from lit_cv.nn.detection.places import map_points, published_points
from lit_cv.nn.detection.selection import Detections, Limits, PaddedDetections, Selection, select
from lit_cv.nn.pyramid import FeaturePyramid

__all__ = ["Detector"]


class Detector(nn.Module, ABC):
    """Base of the detectors: a feature pyramid, to which subclasses add heads.

    Args:
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        num_classes: Number of classes K, without the background.
        strides: Strides of the pyramid's maps, see `FeaturePyramid`.
        channels: Channels of each of these maps.
        layout: Structure of a published detector, which replaces `strides` and `channels`.

    Attributes:
        loss_names: Names of the losses.
        predicts_masks: Whether it predicts masks, and `loss_sums` also needs `masks`.
        selection: Settings of `detect` for the boxes that enter non-maximum suppression.
    """

    loss_names: ClassVar[tuple[str, ...]]
    predicts_masks: ClassVar[bool] = False
    selection = Selection()

    def __init__(
        self,
        levels: Mapping[int, int],
        num_classes: int,
        strides: Sequence[int],
        channels: int,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise OptionError(self, "num_classes", num_classes, "a detector needs at least one class of objects")
        self.num_classes = num_classes
        self.layout = layout
        self.pyramid: FeaturePyramid | PublishedPyramid = (
            FeaturePyramid(levels, strides, channels) if layout is None else PublishedPyramid(levels, layout)
        )

    def run_pyramid(self, maps: Mapping[int, Tensor]) -> list[tuple[int, Tensor]]:
        """Return the strides and the maps of the pyramid, finest first."""
        return list(zip(self.pyramid.strides, self.pyramid(maps).values(), strict=True))

    def points(self, pyramid: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the image coordinates of all locations of the maps, (L, 2) in pixels, and their strides (L,)."""
        return map_points(pyramid) if self.layout is None else published_points(pyramid)

    @staticmethod
    def counts(pyramid: Sequence[tuple[int, Tensor]]) -> list[int]:
        """Return the number of locations of each map."""
        return [features.shape[2] * features.shape[3] for _, features in pyramid]

    def groups(self, pyramid: Sequence[tuple[int, Tensor]], boxes: int = 1) -> dict[str, list[int]]:
        """Return the number of boxes of each map as `groups` for a published detector, which selects boxes per map.

        Args:
            pyramid: Strides and maps.
            boxes: Number of boxes per location.
        """
        return {} if self.layout is None else {"groups": [boxes * count for count in self.counts(pyramid)]}

    def select_each(
        self,
        boxes: Iterable[Tensor],
        scores: Iterable[Tensor],
        sizes: Sequence[tuple[int, int]],
        limits: Limits,
        raw: Mapping[str, Any],
    ) -> list[Detections]:
        """Return the best boxes of each image, see `select`; `raw` may hold the sizes of `groups`."""
        groups = raw.get("groups", ())
        images = zip(boxes, scores, sizes, strict=True)
        return [select(*image, limits, self.selection, groups) for image in images]

    @abstractmethod
    def forward(self, maps: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return the raw outputs for the maps of `Backbone.forward_maps`."""

    @abstractmethod
    def loss_sums(
        self,
        raw: Mapping[str, Any],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        weight: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each loss by name as a sum and the count to divide it by, both scalars.

        Args:
            raw: Output of `forward` for N images.
            boxes: N tensors (n, 4), xyxy in pixels; n may be 0.
            labels: N tensors (n,) int64, from 0.
            weight: Weights (K,) of the classes in the classification loss of objects.
        """

    def losses(
        self, raw: Mapping[str, Any], boxes: Sequence[Tensor], labels: Sequence[Tensor], **targets: Any
    ) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars whose sum is minimized in training; see `loss_sums`."""
        # In a batch without objects, the count is 0: divide by 1.
        sums = self.loss_sums(raw, boxes, labels, **targets)
        return {name: total / count.detach().clamp_min(1) for name, (total, count) in sums.items()}

    @abstractmethod
    def detect(
        self,
        raw: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        limits: Limits,
    ) -> list[Detections]:
        """Return the detected objects in each image.

        Args:
            raw: Output of `forward` for N images.
            sizes: Height and width of the N images in pixels, without padding.
            limits: Limits of the objects.
        """

    @abstractmethod
    def detect_padded(
        self,
        raw: Mapping[str, Any],
        size: tuple[int, int],
        limits: Limits,
        suppress: bool = True,
    ) -> PaddedDetections:
        """Return the objects of `detect` as tensors of fixed sizes, for images of one size without padding.

        Args:
            raw: Output of `forward` for N images.
            size: Height and width of the images in pixels.
            limits: Limits of the objects; without non-maximum suppression only their minimum score.
            suppress: Whether to apply non-maximum suppression; without it, all candidates are returned.
        """

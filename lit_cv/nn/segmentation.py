"""Semantic segmentation heads: a class for every pixel."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from lit_cv.errors import OptionError
from lit_cv.nn.pyramid import FeaturePyramid

__all__ = ["SEGMENTERS", "DeepLabHead", "FCNHead", "SegmentationHead", "build_segmenter", "default_stride"]

SEGMENTERS = ("fcn", "deeplab")

_RATES = (6, 12, 18)  # dilations for the stride of 16 of Chen et al. 2018


class SegmentationHead(nn.Module, ABC):
    """Base of the heads, from the maps of a backbone to class logits for every pixel.

    Attributes:
        stride: Image pixels per step in the logits of `forward`.
        strides: Strides of the backbone's maps that `forward` uses.
    """

    stride: int
    strides: list[int]

    @abstractmethod
    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Return logits (N, K, about H / stride, about W / stride) for the maps of `Backbone.forward_maps`."""

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits of the pixels (N, K, height, width), float32, by bilinear interpolation."""
        if self.stride > 1:
            logits = F.interpolate(logits.float(), scale_factor=self.stride, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]].float()


def build_segmenter(
    name: str, levels: Mapping[int, int], num_classes: int, stride: int = 4, channels: int = 128, dropout: float = 0.1
) -> SegmentationHead:
    """Build a head with random weights.

    Args:
        name: One of `SEGMENTERS`.
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        num_classes: Number of classes K, including the background.
        stride: Stride of the logits, a power of two.
        channels: Channels inside the head.
        dropout: Probability of dropping a channel before the classifier.

    Raises:
        ValueError: If the name is unknown or a number is out of range.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> backbone = create_backbone("resnet9_small")
        >>> head = build_segmenter("fcn", backbone.feature_levels(), 3, channels=32)
        >>> logits = head(backbone.forward_maps(torch.zeros(2, 3, 60, 64, dtype=torch.uint8)))
        >>> logits.shape, head.upsample(logits, (60, 64)).shape
        (torch.Size([2, 3, 15, 16]), torch.Size([2, 3, 60, 64]))
    """
    classes = {"fcn": FCNHead, "deeplab": DeepLabHead}
    if name not in classes:
        raise ValueError(f"there is no segmentation head {name!r}: choose one of {', '.join(SEGMENTERS)}.")
    if num_classes < 2:
        raise OptionError(
            None, "num_classes", num_classes, "segmentation needs at least 2 classes, including the background"
        )
    if stride < 1 or stride & (stride - 1):
        raise OptionError(None, "stride", stride, "must be a power of two")
    if not 0 <= dropout < 1:
        raise OptionError(None, "dropout", dropout, "must be a probability in [0, 1)")
    return classes[name](levels, num_classes, stride, channels, dropout)


class FCNHead(SegmentationHead):
    """Fully convolutional network (Long et al. 2015), which sums and classifies maps of all resolutions.

    The maps are those of a feature pyramid, as in Kirillov et al. 2019 ("Panoptic feature pyramid networks", section
    3.1).
    """

    def __init__(self, levels: Mapping[int, int], num_classes: int, stride: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.pyramid = FeaturePyramid(levels, _doubling_strides(stride, max(*levels, stride)), channels)
        self.strides = sorted(set(self.pyramid.sources.values()))
        self.branches = nn.ModuleList(_block(channels, channels) for _ in self.pyramid.strides)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Return the logits, see `SegmentationHead.forward`."""
        pyramid = self.pyramid(maps).values()
        parts = [branch(features) for branch, features in zip(self.branches, pyramid, strict=True)]
        size = parts[0].shape[2:]
        total = parts[0]
        for part in parts[1:]:
            total = total + F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        return cast(Tensor, self.classifier(total))


class DeepLabHead(SegmentationHead):
    """DeepLabV3+ (Chen et al. 2018): convolutions of several dilations, refined with a finer map.

    The dilated convolutions are torchvision's, on the backbone's map of stride 16, or its coarsest map if that is
    finer.
    """

    def __init__(self, levels: Mapping[int, int], num_classes: int, stride: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        coarse = max((s for s in levels if s <= 16), default=min(levels))
        if coarse < stride:
            raise OptionError(
                self, "stride", stride, f"the backbone's map for DeepLab has stride {coarse}; give at most {coarse}"
            )
        self.coarse = coarse
        self.finest = FeaturePyramid(levels, [stride], channels)
        self.strides = sorted({coarse, *self.finest.sources.values()})
        self.context = ASPP(levels[coarse], _RATES, channels)
        self.fuse = _block(2 * channels, channels)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Return the logits, see `SegmentationHead.forward`."""
        fine = self.finest(maps)[self.stride]
        context = F.interpolate(
            self.context(maps[self.coarse]), size=fine.shape[2:], mode="bilinear", align_corners=False
        )
        return cast(Tensor, self.classifier(self.fuse(torch.cat([fine, context], 1))))


def _doubling_strides(first: int, last: int) -> list[int]:
    strides = [first]
    while strides[-1] < last:
        strides.append(2 * strides[-1])
    return strides


def _block(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def default_stride(image_size: tuple[int, int] | list[int] | None) -> int:
    """Return the default stride of the logits: 4, or 2 for images of at most 128 pixels.

    Example:
        >>> default_stride((480, 640)), default_stride((64, 64)), default_stride(None)
        (4, 2, 4)
    """
    return 2 if image_size and max(image_size) <= 128 else 4

"""A feature pyramid on top of any backbone."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from lit_cv.errors import OptionError

__all__ = ["FeaturePyramid", "check_strides"]


class FeaturePyramid(nn.Module):
    """Maps of several resolutions with the same number of channels, each combined with all coarser ones.

    A feature pyramid network (Lin et al. 2017) on the backbone's maps. Levels coarser than the backbone's are computed
    by strided convolutions (P6 and P7 of RetinaNet, Lin et al. 2017b). Finer or missing levels are computed from the
    nearest map by transposed convolutions or pooling; for vision transformers, which have a single map, this is the
    simple pyramid of ViTDet (Li et al. 2022, section 3).

    Args:
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        strides: Strides of the pyramid's maps: powers of two, each twice the one before.
        channels: Channels of each map.

    Shapes:
        by stride (N, C_s, h_s, w_s) -> by stride (N, channels, h_s, w_s), finest first.

    Raises:
        ValueError: If the strides are invalid.

    Example:
        >>> import torch
        >>> maps = {8: torch.zeros(1, 6, 8, 8), 16: torch.zeros(1, 12, 4, 4)}
        >>> pyramid = FeaturePyramid({8: 6, 16: 12}, [4, 8, 16, 32], channels=5)
        >>> [tuple(out.shape) for out in pyramid(maps).values()]
        [(1, 5, 16, 16), (1, 5, 8, 8), (1, 5, 4, 4), (1, 5, 2, 2)]
    """

    def __init__(self, levels: Mapping[int, int], strides: Sequence[int], channels: int) -> None:
        super().__init__()
        check_strides(strides)
        if channels < 1:
            raise OptionError(self, "channels", channels, "a map has at least one channel")
        self.strides = list(strides)
        self.sources: dict[int, int] = {}  # stride of the backbone's map that each level is computed from
        self.resize = nn.ModuleDict()
        source_channels: list[int] = []
        for stride in (s for s in strides if s <= max(*levels, strides[0])):
            finer = [s for s in levels if s <= stride]
            source = max(finer) if finer else min(levels)
            self.sources[stride] = source
            resized, out = _resize(levels[source], source, stride)
            source_channels.append(out)
            self.resize[str(stride)] = resized
        self.fpn = FeaturePyramidNetwork(source_channels, channels)
        self.extra = nn.ModuleList(_strided_convolution(channels) for _ in range(len(self.strides) - len(self.sources)))

    def forward(self, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the pyramid of a backbone's maps; maps that it does not use may be missing."""
        resized = {str(stride): self.resize[str(stride)](maps[source]) for stride, source in self.sources.items()}
        outputs = list(self.fpn(resized).values())
        for i, layer in enumerate(self.extra):
            outputs.append(layer(outputs[-1] if i == 0 else F.relu(outputs[-1])))
        return dict(zip(self.strides, outputs, strict=True))


def check_strides(strides: Sequence[int]) -> None:
    """Raise ValueError unless these are powers of two, each twice the one before."""
    powers = bool(strides) and all(s >= 1 and s & (s - 1) == 0 for s in strides)
    if not powers or any(b != 2 * a for a, b in itertools.pairwise(strides)):
        raise OptionError(
            None, "strides", list(strides), "must be powers of two, each twice the one before, such as [8, 16, 32]"
        )


def _strided_convolution(channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, 3, 2, 1, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return layer


def _resize(channels: int, source: int, stride: int) -> tuple[nn.Module, int]:
    """Return layers that resize a map from one stride to another, and their number of output channels."""
    if stride >= source:
        return (nn.Identity() if stride == source else nn.MaxPool2d(stride // source, ceil_mode=True)), channels
    layers: list[nn.Module] = []
    for _ in range(int(math.log2(source // stride))):
        out = max(channels // 2, 16)
        layers += [nn.ConvTranspose2d(channels, out, 2, 2), nn.GroupNorm(1, out), nn.GELU()]
        channels = out
    return nn.Sequential(*layers), channels

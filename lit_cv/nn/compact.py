"""Compact networks that train in minutes on a CPU, for images of at least 8x8 pixels (`lenet`: 28x28)."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from lit_cv.nn.backbone import Network
from lit_cv.nn.whitening import WhiteningConv2d

__all__ = ["COMPACT", "Airbench", "Conv4", "LeNet", "ResNet9", "build_compact"]


def _block(in_channels: int, out_channels: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounded up, so that a side never becomes 0
    # ReLU commutes with the pooling and has a quarter of the work after it: a step took 0.85 times as long.
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class Conv4(nn.Module):
    """The four-block network of few-shot learning (Vinyals et al. 2016, section 4.1.1; Snell et al. 2017).

    Each block is a 3x3 convolution, batch norm, ReLU and 2x2 max-pooling.

    Args:
        in_channels: Channels of the images.
        width: Channels of every block.
        pools: Number of leading blocks with a pooling; 2 for relation networks (Sung et al. 2018).

    Shapes:
        (N, in_channels, H, W) -> (N, width, ceil(H / 2^pools), ceil(W / 2^pools)).
    """

    def __init__(self, in_channels: int = 3, width: int = 64, pools: int = 4) -> None:
        super().__init__()
        self.num_features = width
        self.blocks = nn.Sequential(*(_block(width if i else in_channels, width, pool=i < pools) for i in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of normalized images."""
        return cast(Tensor, self.blocks(x))


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.branch(x))


class ResNet9(nn.Module):
    """A residual network of eight convolutions, after D. Page's DAWNBench entry (2018).

    One convolution is followed by three stages, each of which doubles the channels and halves the resolution. The
    first and the third stage have a residual branch of two more convolutions.

    Args:
        in_channels: Channels of the images.
        width: Channels of the first convolution, 64 as published; the last stage has eight times as many.

    Shapes:
        (N, in_channels, H, W) -> (N, 8 width, ceil(H / 8), ceil(W / 8)).
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = _block(in_channels, width, pool=False)
        self.stages = nn.Sequential(
            _block(width, 2 * width, pool=True),
            _Residual(_block(2 * width, 2 * width, pool=False), _block(2 * width, 2 * width, pool=False)),
            _block(2 * width, 4 * width, pool=True),
            _block(4 * width, 8 * width, pool=True),
            _Residual(_block(8 * width, 8 * width, pool=False), _block(8 * width, 8 * width, pool=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of normalized images."""
        return cast(Tensor, self.stages(self.stem(x)))


class LeNet(nn.Module):
    """The usual network for domain adaptation between digit datasets, after LeCun et al. 1998.

    Two 5x5 convolutions, each with max-pooling and ReLU, and a dense layer, implemented as a 4x4 convolution, which
    allows images larger than 28x28 pixels. It has no BatchNorm.

    Args:
        in_channels: Channels of the images.
        width: Channels of the first convolution; the second has 2.5 times, the dense layer 25 times as many.

    Shapes:
        (N, in_channels, H, W), H and W at least 28 -> (N, 25 width, 1, 1) for 28x28.
    """

    def __init__(self, in_channels: int = 1, width: int = 20) -> None:
        super().__init__()
        self.num_features = 25 * width
        pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_channels, width, 5), pool, nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(width, 5 * width // 2, 5), pool, nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(5 * width // 2, 25 * width, 4), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of normalized images."""
        return cast(Tensor, self.blocks(x))


class Airbench(nn.Module):
    """A network for CIFAR-10 in few epochs (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU").

    A whitening layer is followed by three stages of two 3x3 convolutions, the first of which halves the resolution.
    BatchNorm scales are fixed, and convolutions start as identities as far as their channels allow.

    Args:
        in_channels: Channels of the images.
        width: Channels of the first stage, 64 as published; the other two stages have four times as many.

    Shapes:
        (N, in_channels, H, W), H and W at least 9 -> (N, 4 width, (H - 1) // 8, (W - 1) // 8).
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.num_features = 4 * width
        self.stem = nn.Sequential(WhiteningConv2d(in_channels), nn.GELU())
        channels = [2 * 4 * in_channels, width, 4 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *_airbench_layer(before, after, nn.MaxPool2d(2)), *_airbench_layer(after, after, nn.Identity())
                )
                for before, after in pairwise(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map of normalized images."""
        return cast(Tensor, self.stages(self.stem(x)))


def _airbench_layer(before: int, after: int, pool: nn.Module) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[: min(before, after)].detach())
    norm = nn.BatchNorm2d(after, momentum=0.4)  # follows weights that change fast
    norm.weight.requires_grad_(False)
    return [convolution, pool, norm, nn.GELU()]


COMPACT: dict[str, tuple[Callable[[int, int], Airbench | Conv4 | ResNet9 | LeNet], int]] = {
    "airbench": (Airbench, 64),
    "airbench_small": (Airbench, 32),
    "lenet": (LeNet, 20),
    "conv4": (Conv4, 64),
    "conv4_2pool": (partial(Conv4, pools=2), 64),
    "resnet9": (ResNet9, 32),
    "resnet9_small": (ResNet9, 16),
    "resnet9_large": (ResNet9, 64),
}
"""The compact networks by name, each with its width.

The published ResNet-9, made for a GPU, is `resnet9_large`. Training throughput in images per second on two CPU cores
(bfloat16, channels last, 28x28, batch size 128): `resnet9_large` 350, `resnet9` 1,200, `resnet9_small` 3,000, `conv4`
4,500.
"""


def build_compact(name: str, in_channels: int) -> Network:
    """Build one of the networks in `COMPACT`, with random weights."""
    cls, width = COMPACT[name]
    body = cls(in_channels, width)
    pool = _scaled_maximum if isinstance(body, Airbench) else _average
    return Network(body, _feature_map, pool, body.num_features)


def _feature_map(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body)(x))


def _scaled_maximum(body: nn.Module, x: Tensor) -> Tensor:
    return x.amax((2, 3)) / 9  # the factor is that of the published classifier


def _average(body: nn.Module, x: Tensor) -> Tensor:
    return x.mean((2, 3))

"""Changes of the first layers: another number of input channels, or a higher resolution for small images."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["SMALL_STEMS", "adapt_channels", "adapt_normalization", "first_convolution", "replace_input", "small_stem"]


def first_convolution(body: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the path and the module of the first convolution, which sees the image.

    Raises:
        ValueError: If there is none.
    """
    for path, module in body.named_modules():
        if isinstance(module, nn.Conv2d):
            return path, module
    raise ValueError(f"{type(body).__name__} has no convolution, so it has no feature maps.")


def replace_input(body: nn.Module, in_channels: int) -> None:
    """Change the number of input channels of `body`, in place, by a new first convolution."""
    path, convolution = first_convolution(body)
    if convolution.in_channels != in_channels:
        body.set_submodule(path, _like(convolution, in_channels=in_channels))


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Convert the weight of a first convolution to another number of input channels.

    For one channel, the old channels are summed, so that a gray image gives the same output as its RGB copy did. For
    more channels, the old ones are repeated and scaled by old / new, so that the output keeps its magnitude.

    Args:
        weight: (out, old, h, w).
        in_channels: New number of channels.

    Returns:
        (out, in_channels, h, w).
    """
    old = weight.shape[1]
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(in_channels) % old] * (old / in_channels)


def adapt_normalization(values: Sequence[float], in_channels: int) -> list[float]:
    """Convert means or standard deviations to another number of channels: average them for one, else repeat them."""
    if in_channels == 1:
        return [math.fsum(values) / len(values)]
    return [values[channel % len(values)] for channel in range(in_channels)]


def small_stem(family: str, body: nn.Module) -> frozenset[str]:
    """Change the first layers, in place, to keep the resolution of small images.

    Args:
        family: A key of `SMALL_STEMS`.
        body: The network.

    Returns:
        Keys of the state dict whose shapes differ from the published weights.
    """
    return SMALL_STEMS[family](body)


def _like(old: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    """Return a new convolution that differs from `old` in `changes`, initialized to the same output variance."""
    options: dict[str, Any] = {
        "in_channels": old.in_channels,
        "out_channels": old.out_channels,
        "kernel_size": old.kernel_size,
        "stride": old.stride,
        "padding": old.padding,
        "bias": old.bias is not None,
    }
    new = nn.Conv2d(**(options | changes))
    fan_in_ratio = old.weight[0].numel() / new.weight[0].numel()
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * math.sqrt(fan_in_ratio))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    return new


def _three_by_three(path: str, pool: str) -> Callable[[nn.Module], frozenset[str]]:
    """Replace the strided convolution by a 3x3 convolution of stride 1, and remove the pooling after it."""

    def change(body: nn.Module) -> frozenset[str]:
        convolution = cast(nn.Conv2d, body.get_submodule(path))
        body.set_submodule(path, _like(convolution, kernel_size=3, stride=1, padding=1))
        body.set_submodule(pool, nn.Identity())
        return frozenset({f"{path}.weight"})

    return change


def _stride_one(path: str, pool: str | None = None) -> Callable[[nn.Module], frozenset[str]]:
    """Set the stride of the published convolution to 1, and remove the pooling after it; its weights still fit."""

    def change(body: nn.Module) -> frozenset[str]:
        cast(nn.Conv2d, body.get_submodule(path)).stride = (1, 1)
        if pool is not None:
            body.set_submodule(pool, nn.Identity())
        return frozenset()

    return change


def _two_pixel_patches(body: nn.Module) -> frozenset[str]:
    """Reduce ConvNeXt's patches from 4 to 2 pixels."""
    path, convolution = first_convolution(body)
    body.set_submodule(path, _like(convolution, kernel_size=2, stride=2))
    return frozenset({f"{path}.weight"})


SMALL_STEMS: dict[str, Callable[[nn.Module], frozenset[str]]] = {
    "resnet": _three_by_three("conv1", "maxpool"),
    "resnext": _three_by_three("conv1", "maxpool"),
    "wide_resnet": _three_by_three("conv1", "maxpool"),
    "densenet": _three_by_three("features.conv0", "features.pool0"),
    "googlenet": _three_by_three("conv1.conv", "maxpool1"),
    "convnext": _two_pixel_patches,
    "regnet": _stride_one("stem.0"),
    "efficientnet": _stride_one("features.0.0"),
    "mobilenet": _stride_one("features.0.0"),
    "mnasnet": _stride_one("layers.0"),
    "shufflenet": _stride_one("conv1.0", "maxpool"),
}
"""Functions that change the stem for small images, by the name prefix of each family of torchvision networks."""

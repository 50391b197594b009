"""The precision of a recipe, by what the device and the network compute fast."""

import platform
from contextlib import suppress

import torch
from torch import nn

from lit_cv.nn import create_backbone

__all__ = ["depthwise_share", "has_bfloat16", "is_slow_in_bfloat16"]

_MOST_DEPTHWISE = 0.5  # share of the convolutions; residual networks have none, MobileNets nothing else


def has_bfloat16(accelerator: str = "auto") -> bool:
    """Return whether the device has instructions for products of bfloat16 matrices.

    A processor without them computes such products one by one: a training step of a small residual network takes five
    to ten times as long in bfloat16 as in float32 there, and half as long where they exist (AMX, AVX512_BF16).

    Args:
        accelerator: As the Trainer takes it; "auto" stands for the best device of this machine.

    Returns:
        False for x86 processors without AMX and AVX512_BF16, for others where oneDNN has no such products, and for GPUs
        of NVIDIA before Ampere; True for what is not known.
    """
    device = _device(accelerator)
    if device is None:
        if platform.machine().lower() in ("x86_64", "amd64"):
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def is_slow_in_bfloat16(backbone: str, accelerator: str = "auto") -> bool:
    """Return whether a device with bfloat16 trains a network faster in float32.

    That is so on processors for networks of depthwise convolutions, which are no products of matrices: a step of
    MobileNets takes a quarter longer there, while residual networks take half as long.

    Args:
        backbone: Name of the network.
        accelerator: As the Trainer takes it.
    """
    if _device(accelerator) is not None:
        return False
    for device in ("meta", "cpu"):  # networks that draw their weights by hand cannot be built without memory
        # What a network of the user's own raises it raises again when it is built.
        with suppress(Exception), torch.random.fork_rng(devices=[]), torch.device(device):
            return depthwise_share(create_backbone(backbone)) > _MOST_DEPTHWISE
    return False


def depthwise_share(network: nn.Module) -> float:
    """Return the share of depthwise convolutions among those of a network that look at more than one pixel.

    Example:
        >>> depthwise_share(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)))
        0.5
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1]
    return sum(layer.groups == layer.in_channels > 1 for layer in layers) / max(1, len(layers))


def _device(accelerator: str) -> torch.device | None:
    """Return the device that an accelerator stands for, `None` for the processor."""
    return None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)

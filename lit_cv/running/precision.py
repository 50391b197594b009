"""Choose the precision of a recipe by the speed of the device and the network."""

import platform
from contextlib import suppress

import torch
from torch import nn

from lit_cv.nn import create_backbone

__all__ = ["depthwise_share", "has_bfloat16", "is_slow_in_bfloat16"]

_MAX_DEPTHWISE = 0.5  # of the convolutions; residual networks have 0, MobileNets 1


def has_bfloat16(accelerator: str = "auto") -> bool:
    """Return whether the device multiplies bfloat16 matrices in hardware.

    A CPU without such instructions emulates them: a training step of a small residual network then takes five to ten
    times as long in bfloat16 as in float32. With them (AMX, AVX512_BF16) it takes half as long.

    Args:
        accelerator: `accelerator` of the Trainer; "auto" is the best device of this machine.

    Returns:
        False for x86 CPUs without AMX and AVX512_BF16, for other CPUs without support in oneDNN, and for NVIDIA GPUs
        before Ampere; True for unknown devices.
    """
    device = _device(accelerator)
    if device is None:
        if platform.machine().lower() in ("x86_64", "amd64"):
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def is_slow_in_bfloat16(backbone: str, accelerator: str = "auto") -> bool:
    """Return whether a device with bfloat16 support trains a network faster in float32.

    This holds on CPUs for networks of depthwise convolutions, which are not computed as matrix products: in bfloat16,
    a training step of a MobileNet takes a quarter longer, that of a residual network half as long.

    Args:
        backbone: Name of the network.
        accelerator: `accelerator` of the Trainer.
    """
    if _device(accelerator) is not None:
        return False
    for device in ("meta", "cpu"):  # networks with their own weight initialization may not build on "meta"
        # An error in a user-defined network is raised again when the model is built.
        with suppress(Exception), torch.random.fork_rng(devices=[]), torch.device(device):
            return depthwise_share(create_backbone(backbone)) > _MAX_DEPTHWISE
    return False


def depthwise_share(network: nn.Module) -> float:
    """Return the fraction of depthwise convolutions among the convolutions larger than 1x1.

    Example:
        >>> depthwise_share(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)))
        0.5
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1]
    return sum(layer.groups == layer.in_channels > 1 for layer in layers) / max(1, len(layers))


def _device(accelerator: str) -> torch.device | None:
    """Return the device of an accelerator, `None` for the CPU."""
    return None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)

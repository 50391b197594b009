"""Tone functions on float32 images, which they may overwrite, with one strength per sample.

They follow torchvision's functions for uint8 images, without rounding in between.
"""

import torch
from torch import Tensor

from lit_cv.augment.memory import on_device, per_sample

__all__ = ["adjust_sharpness", "autocontrast", "equalize", "posterize", "solarize"]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values of at least the thresholds (N,) in [0, 1]."""
    # The threshold is slightly lowered, since n * (1 / 255) and n / 255 may differ in the last bit.
    return torch.where(images >= per_sample(threshold - 1e-6, images), 1 - images, images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the highest bits (N,), 0 to 8, of the 8-bit values."""
    step = per_sample(2.0 ** (8 - bits), images)
    return images.mul_(255).round_().div_(step).floor_().mul_(step).mul_(1 / 255)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel to the full range; a constant channel does not change."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    scale = torch.where(flat, 1.0, 1 / torch.where(flat, 1.0, high - low))
    return images.sub_(torch.where(flat, 0.0, low)).mul_(scale).clamp_(0, 1)


def equalize(images: Tensor) -> Tensor:
    """Flatten the 8-bit histogram of every channel; NaN stays NaN."""
    n, channels, height, width = images.shape
    unknown = images.isnan()
    levels = images.nan_to_num(0.0).mul_(255).add_(0.5).clamp_(0, 255).long().view(n * channels, -1)
    counts = torch.zeros(n * channels, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, levels, torch.ones((), dtype=torch.long, device=images.device).expand_as(levels))
    last = (counts > 0).to(torch.uint8).cumsum(1).argmax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)).div_(255, rounding_mode="floor")
    table = (counts.cumsum(1) + step // 2).div_(step.clamp_min(1), rounding_mode="floor").clamp_(max=255)
    table = torch.cat([torch.zeros_like(table[:, :1]), table[:, :-1]], 1)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    images.copy_(table.gather(1, levels).view(images.shape)).mul_(1 / 255)
    return images.masked_fill_(unknown, torch.nan)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the difference of images from a blurred copy by factors (N,); 0 blurs, 1 changes nothing."""
    if min(images.shape[2:]) <= 2:
        return images
    height, width = images.shape[2:]
    inner = images[:, :, 1:-1, 1:-1].clone()
    smooth = inner * 4
    for dy in range(3):
        for dx in range(3):
            smooth += images[:, :, dy : height - 2 + dy, dx : width - 2 + dx]
    # The edge has no blurred values and does not change.
    inner = torch.lerp(smooth.mul_(1 / 13), inner, on_device(factor, images).view(-1, 1, 1, 1))
    images[:, :, 1:-1, 1:-1] = inner
    return images.clamp_(0, 1)

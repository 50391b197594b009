"""Brightness, contrast, saturation and hue of each sample combined into one matrix."""

import math

import torch
from torch import Tensor

from lit_cv.augment.color import LUMA
from lit_cv.augment.memory import on_device

__all__ = ["apply_matrices", "fold"]


def fold(strengths: dict[str, Tensor], order: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """Combine the color functions into matrices, without clipping in between.

    Hue becomes a rotation about the gray axis, which preserves neither the value nor the saturation of HSV: a different
    transform of similar strength.

    Args:
        strengths: Factors and shifts (N,) by name, as for the functions of `color`.
        order: Indices in `names` of the functions of each sample, in the order of application, (N, K).
        names: Names of the functions.

    Returns:
        M and K, (N, 3, 3): a pixel x of an image whose mean pixel is m becomes M x + K m.
    """
    n = len(order)
    eye, luma = torch.eye(3), torch.tensor(LUMA).expand(3, 3)
    steps = {name: torch.zeros(n, 3, 3) for name in names}
    for name, value in strengths.items():
        factor = value.view(-1, 1, 1)
        if name == "hue":
            steps[name] = _rotations(value)
        elif name == "saturation":
            steps[name] = factor * eye + (1 - factor) * luma
        else:
            steps[name] = factor * eye
    stacked = torch.stack([steps[name] for name in names], 1)
    matrix, from_mean = eye.repeat(n, 1, 1), torch.zeros(n, 3, 3)
    for kind in order.unbind(1):
        step = stacked[torch.arange(n), kind]
        matrix, from_mean, before = step @ matrix, step @ from_mean, matrix + from_mean
        if "contrast" in names:
            mean_weight = torch.where(kind == names.index("contrast"), 1 - strengths["contrast"], 0.0)
            from_mean = from_mean + mean_weight.view(-1, 1, 1) * (luma @ before)
    return matrix, from_mean


def apply_matrices(images: Tensor, matrix: Tensor, from_mean: Tensor) -> Tensor:
    """Apply the matrices of `fold` to float images (N, 3, H, W) and clip them to [0, 1]."""
    n, _, height, width = images.shape
    pixels = images.view(n, 3, height * width)
    mean = pixels.sum(2, keepdim=True).mul_(1 / (height * width))
    offset = on_device(from_mean, images) @ mean
    return torch.baddbmm(offset, on_device(matrix, images), pixels).clamp_(0, 1).view_as(images)


def _rotations(turns: Tensor) -> Tensor:
    """Return rotations about the gray axis; a third of a turn maps red to green."""
    angle = (2 * math.pi * turns).view(-1, 1, 1)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return angle.cos() * torch.eye(3) + (1 - angle.cos()) / 3 + angle.sin() * across

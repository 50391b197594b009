"""Brightness, contrast, saturation and hue of each sample folded into one matrix."""

import math

import torch
from torch import Tensor

from lit_cv.augment.color import LUMA
from lit_cv.augment.memory import on_device

__all__ = ["apply_matrices", "fold"]


def fold(strengths: dict[str, Tensor], order: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """Return what the color functions do together, without clipping in between.

    Hue is turned as a rotation about the gray axis, which keeps neither HSV's value nor its saturation: a
    transform of similar strength, not the same one.

    Args:
        strengths: Factors and shifts (N,) by name, as `color`'s functions take them.
        order: Positions in `names` of the functions of each sample, in order, (N, K).
        names: The functions that are used.

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
    every = torch.stack([steps[name] for name in names], 1)
    matrix, from_mean = eye.repeat(n, 1, 1), torch.zeros(n, 3, 3)
    for kind in order.unbind(1):
        step = every[torch.arange(n), kind]
        matrix, from_mean, before = step @ matrix, step @ from_mean, matrix + from_mean
        if "contrast" in names:
            share = torch.where(kind == names.index("contrast"), 1 - strengths["contrast"], 0.0)
            from_mean = from_mean + share.view(-1, 1, 1) * (luma @ before)
    return matrix, from_mean


def apply_matrices(images: Tensor, matrix: Tensor, from_mean: Tensor) -> Tensor:
    """Return float images (N, 3, H, W) changed by the matrices of `fold` and clipped to [0, 1]."""
    n, _, height, width = images.shape
    pixels = images.view(n, 3, height * width)
    mean = pixels.sum(2, keepdim=True).mul_(1 / (height * width))
    offset = on_device(from_mean, images) @ mean
    return torch.baddbmm(offset, on_device(matrix, images), pixels).clamp_(0, 1).view_as(images)


def _rotations(turns: Tensor) -> Tensor:
    """Return rotations about the gray axis that bring red to green at a third of a turn."""
    angle = (2 * math.pi * turns).view(-1, 1, 1)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return angle.cos() * torch.eye(3) + (1 - angle.cos()) / 3 + angle.sin() * across

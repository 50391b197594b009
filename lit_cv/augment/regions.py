"""Operations on a different box of pixels in each sample."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from lit_cv.augment.memory import on_device

__all__ = ["centered_boxes", "fill_boxes", "paste_boxes"]


def centered_boxes(size: tuple[int, int], half_height: Tensor, half_width: Tensor) -> Tensor:
    """Draw boxes with their centers anywhere in the image, clipped at its edges.

    Args:
        size: (height, width) of the images in pixels.
        half_height: Half the height of the boxes in pixels, (N,) int64; a box of height 2 h starts h above its center.
        half_width: Half the width, likewise.

    Returns:
        (N, 4) int64: top, left, bottom, right, the last two exclusive.
    """
    y = torch.randint(size[0], half_height.shape)
    x = torch.randint(size[1], half_width.shape)
    edges = [y - half_height, x - half_width, y + half_height, x + half_width]
    limits = [size[0], size[1], size[0], size[1]]
    return torch.stack([edge.clamp(0, limit) for edge, limit in zip(edges, limits, strict=True)], 1)


def fill_boxes(images: Tensor, boxes: Tensor, value: float) -> Tensor:
    """Overwrite boxes (N, 4) of images (N, C, H, W) with a value."""
    if images.device.type != "cpu":
        return images.masked_fill_(_mask(images, boxes), value)
    for image, (top, left, bottom, right) in zip(_as_numpy(images), boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] = value if images.dtype != torch.bfloat16 else _bits(value)
    return images


def paste_boxes(images: Tensor, others: Tensor, boxes: Tensor) -> Tensor:
    """Overwrite boxes (N, 4) of images (N, C, H, W) with those of the previous sample in `others`."""
    if images.device.type != "cpu":
        return images.copy_(torch.where(_mask(images, boxes), others.roll(1, 0), images))
    target, source = _as_numpy(images), _as_numpy(others)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        target[i, :, top:bottom, left:right] = source[i - 1, :, top:bottom, left:right]
    return images


def _as_numpy(images: Tensor) -> npt.NDArray[Any]:
    """Return an array that shares the memory of images; bfloat16, which numpy lacks, is viewed as int16."""
    return (images.view(torch.int16) if images.dtype == torch.bfloat16 else images).numpy()


def _bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.bfloat16).view(torch.int16))


def _mask(images: Tensor, boxes: Tensor) -> Tensor:
    top, left, bottom, right = on_device(boxes, images)[:, :, None].unbind(1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]

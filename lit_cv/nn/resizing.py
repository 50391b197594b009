"""Resizing of batches of images."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["resize_images"]


def resize_images(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return images resized bilinearly with antialiasing, in their dtype.

    Args:
        images: (N, C, H, W), uint8 or float.
        size: Height and width in pixels; `None` keeps the images as they are.

    Example:
        >>> import torch
        >>> resize_images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), (16, 24)).shape
        torch.Size([2, 3, 16, 24])
    """
    if size is None or images.shape[2:] == size:
        return images
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().to(images.dtype)

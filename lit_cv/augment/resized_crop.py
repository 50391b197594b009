"""Crops of random size and aspect ratio, resized to one size."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.augment.checks import check_interval, check_size
from lit_cv.augment.geometry import Geometric
from lit_cv.augment.memory import memory_layout, on_device
from lit_cv.augment.operation import OPERATIONS, Params

__all__ = ["RandomResizedCrop", "resize_matrix"]

_ATTEMPTS = 10
_SMALL = 64 * 64


@OPERATIONS.add("random_resized_crop")
class RandomResizedCrop(Geometric):
    """A crop of random area and aspect ratio from each image, resized with antialiasing.

    Szegedy et al., 2015. Crops are drawn as in torchvision: the first of ten attempts that fits, else the largest
    center crop. Resizing is bilinear with antialiasing and equals `torch.nn.functional.interpolate(antialias=True)`,
    which is used for large images on the CPU, one by one. Small images, and images on other devices, are resized
    together by two matrix products per sample.

    Args:
        size: Size of the result in pixels, one number or [height, width]; None for the size of the images.
        scale: Minimum and maximum area of the crop, as a fraction of the image.
        ratio: Minimum and maximum width / height of the crop.

    Example:
        >>> RandomResizedCrop(24)(torch.zeros(2, 3, 32, 40, dtype=torch.uint8)).shape
        torch.Size([2, 3, 24, 24])
    """

    def __init__(
        self,
        size: int | list[int] | None = None,
        scale: list[float] | tuple[float, float] = (0.08, 1.0),
        ratio: list[float] | tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        self.size = None if size is None else check_size("size", size)
        self._follows = size is None
        self.scale = check_interval("scale", scale, 1e-6, 1.0)
        self.ratio = check_interval("ratio", ratio, 1e-3, 1e3)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that crops are resized to."""
        return self.size or size

    def crop_to(self, size: tuple[int, int] | None) -> bool:
        """Set the size that crops are resized to, unless the operation has its own."""
        if self._follows:
            self.size = size
        return True

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        full_height, full_width = size
        area = torch.empty(n, _ATTEMPTS).uniform_(*self.scale).mul_(full_height * full_width)
        log_ratio = torch.empty_like(area).uniform_(math.log(self.ratio[0]), math.log(self.ratio[1]))
        width = (area * log_ratio.exp()).sqrt_().round_()
        height = (area / log_ratio.exp()).sqrt_().round_()
        fits = (width >= 1) & (width <= full_width) & (height >= 1) & (height <= full_height)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)
        any_fits = fits.gather(1, first)[:, 0]
        center_height, center_width = self._largest(full_height, full_width)
        height = torch.where(any_fits, height.gather(1, first)[:, 0], center_height)
        width = torch.where(any_fits, width.gather(1, first)[:, 0], center_width)
        y, x = torch.rand(2, n)
        top = torch.where(any_fits, (y * (full_height - height + 1)).floor_(), (full_height - center_height) // 2)
        left = torch.where(any_fits, (x * (full_width - width + 1)).floor_(), (full_width - center_width) // 2)
        return {name: value.long() for name, value in zip(_WINDOW, (top, left, height, width), strict=True)}

    def _largest(self, full_height: int, full_width: int) -> tuple[int, int]:
        ratio = full_width / full_height
        if ratio < self.ratio[0]:
            return round(full_width / self.ratio[0]), full_width
        if ratio > self.ratio[1]:
            return full_height, round(full_height * self.ratio[1])
        return full_height, full_width

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        n, channels, full_height, full_width = images.shape
        size = self.output_size((full_height, full_width))
        if n == 0:
            return images.new_empty(0, channels, *size)
        if images.device.type == "cpu" and size[0] * size[1] > _SMALL:
            # `interpolate` has a fast path for uint8, but none for half precision.
            pixels = images if images.dtype == torch.uint8 else images.to(torch.float32)
            return _resize_each(pixels, params, size).to(images.dtype)
        pixels = images.to(torch.float32)
        top, left, height, width = (on_device(params[name], images) for name in _WINDOW)
        across = resize_matrix(left, width, full_width, size[1])
        down = resize_matrix(top, height, full_height, size[0])
        pixels = torch.bmm(pixels.reshape(n, channels * full_height, full_width), across.transpose(1, 2))
        pixels = torch.matmul(down[:, None], pixels.view(n, channels, full_height, size[1]))
        return pixels.add_(0.5).to(images.dtype) if images.dtype == torch.uint8 else pixels.to(images.dtype)

    _border = "edge"  # crops are inside the image; rounding must not read beyond it

    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor:
        height, width = self.output_size(size)
        zero = torch.zeros(len(params["top"]))
        across = torch.stack([params["width"] / width, zero, params["left"].float()], 1)
        down = torch.stack([zero, params["height"] / height, params["top"].float()], 1)
        return torch.stack([across, down], 1)


_WINDOW = ("top", "left", "height", "width")


def _resize_each(images: Tensor, params: Params, size: tuple[int, int]) -> Tensor:
    out = images.new_empty(len(images), images.shape[1], *size)
    packed = images.dtype == torch.uint8 and images.shape[1] == 3 and memory_layout(images) != torch.channels_last
    windows = zip(*(params[name].tolist() for name in _WINDOW), strict=True)
    for i, (top, left, height, width) in enumerate(windows):
        window = images[i : i + 1, :, top : top + height, left : left + width]
        if packed:
            _resize_packed(window[0], out[i])
        else:
            out[i] = F.interpolate(window, size=size, mode="bilinear", antialias=True)[0]
    return out


def _resize_packed(window: Tensor, out: Tensor) -> None:
    """Resize a uint8 image (3, h, w) as four interleaved channels, which is twice as fast."""
    red, green, blue = window.to(torch.int32)
    pixels = red.add_(green, alpha=1 << 8).add_(blue, alpha=1 << 16).contiguous().view(torch.uint8)
    channels = pixels.view(1, *window.shape[1:], 4).permute(0, 3, 1, 2)
    resized = F.interpolate(channels, size=out.shape[1:], mode="bilinear", antialias=True)
    pixels = resized.permute(0, 2, 3, 1).contiguous().view(torch.int32)[0, :, :, 0].numpy()
    for plane in out.numpy():
        np.copyto(plane, pixels, casting="unsafe")  # the lowest byte
        np.right_shift(pixels, 8, out=pixels)


def resize_matrix(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """Return the matrices that resize one dimension of each sample's crop with antialiasing.

    The filter is a triangle whose width grows with the reduction; its weights inside the crop sum to 1.

    Args:
        start: First pixel of each crop, (N,).
        length: Number of pixels of each crop, (N,).
        full: Input size of the dimension.
        size: Output size of the dimension.

    Returns:
        (N, size, full) float32, to be multiplied with the input dimension.
    """
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    pixel = torch.arange(full, device=start.device) + 0.5
    shrink = length / size
    center = (torch.arange(size, device=start.device) + 0.5)[:, None] * shrink + start
    weights = (pixel - center).abs_().div_(shrink.clamp_min(1)).neg_().add_(1).clamp_min_(0)
    weights *= (pixel > start) & (pixel < start + length)
    return weights.div_(weights.sum(2, keepdim=True))

"""Gaussian blur."""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.augment.checks import check_interval
from lit_cv.augment.memory import on_device
from lit_cv.augment.operation import OPERATIONS, Operation, Params
from lit_cv.errors import OptionError

__all__ = ["GaussianBlur"]

_REACH = 3.5  # standard deviations; the weights beyond sum to 5e-4


@OPERATIONS.add("gaussian_blur")
class GaussianBlur(Operation):
    """Gaussian blur of random width, with reflection at the edges.

    Rows and columns are blurred separately. The kernel is truncated at 3.5 standard deviations, which changes an image
    by less than 0.1 / 255 and saves most of the work of a wide kernel.

    Args:
        kernel_size: Width of the kernel in pixels, odd; None for about a tenth of the image, as in SimCLR.
        sigma: Minimum and maximum standard deviation in pixels.
        p: Probability of blurring a sample.

    Raises:
        ValueError: If the kernel size is even, or the images are too small for the reflection.
    """

    computes_float = True
    overwrites = True

    def __init__(
        self,
        kernel_size: int | None = None,
        sigma: list[float] | tuple[float, float] = (0.1, 2.0),
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        if kernel_size is not None and (type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0):
            raise OptionError(self, "kernel_size", kernel_size, "must be an odd number of pixels")
        self.kernel_size = kernel_size
        self.sigma = check_interval("sigma", sigma, 1e-3)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return {"sigma": torch.empty(n).uniform_(*self.sigma)}

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        n, _, height, width = images.shape
        radius = min(height, width) // 20 if self.kernel_size is None else self.kernel_size // 2
        if radius >= min(height, width):
            raise OptionError(
                self,
                "kernel_size",
                self.kernel_size,
                f"images of {height}x{width} pixels are too small for it; give at most {2 * min(height, width) - 1}",
            )
        sigma = params["sigma"]
        if n == 0 or radius == 0:
            return images
        radius = min(radius, math.ceil(_REACH * float(sigma.max())))
        distance = torch.arange(radius + 1)
        kernels = (distance / sigma[:, None]).square_().mul_(-0.5).exp_()
        kernels /= 2 * kernels.sum(1, keepdim=True) - 1
        if images.device.type == "cpu":
            columns = _blur_rows(images.transpose(2, 3), kernels)
            return _blur_rows(columns.transpose(2, 3), kernels)  # the result is contiguous
        return _convolve(F.pad(images, (radius,) * 4, mode="reflect"), on_device(kernels, images))


def _blur_rows(images: Tensor, kernels: Tensor) -> Tensor:
    """Return the weighted sums of neighboring rows.

    The rows are the entries of an embedding bag. On the CPU, this is 5 times faster than adding shifted images and 20
    times faster than a convolution.
    """
    n, channels, height, width = images.shape
    radius = kernels.shape[1] - 1
    weights = torch.cat([kernels[:, 1:].flip(1), kernels], 1).repeat_interleave(channels * height, 0)
    table = np.ascontiguousarray(images.numpy()).reshape(-1, width)  # transposes faster than torch
    rows = _neighbors(n * channels, height, radius)
    sums = F.embedding_bag(rows, torch.from_numpy(table), mode="sum", per_sample_weights=weights)
    return sums.view(images.shape)


@lru_cache(maxsize=32)
def _neighbors(planes: int, height: int, radius: int) -> Tensor:
    """Return the indices of the rows that contribute to each blurred row, for `planes` stacked planes, reflected."""
    row = torch.arange(height)[:, None] + torch.arange(-radius, radius + 1)
    row = height - 1 - (height - 1 - row.abs()).abs()
    return (torch.arange(planes)[:, None, None] * height + row).flatten(0, 1)


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    radius = kernels.shape[1] - 1
    full = torch.cat([kernels.flip(1), kernels[:, 1:]], 1).repeat_interleave(channels, 0)
    flat = images.view(1, n * channels, height, width)
    flat = F.conv2d(flat, full[:, None, :, None], groups=n * channels)
    flat = F.conv2d(flat, full[:, None, None, :], groups=n * channels)
    return flat.view(n, channels, height - 2 * radius, width - 2 * radius)

"""Photometric functions on float32 images, in place, with one strength per sample, (N,) on the CPU.

All follow torchvision's functions for float images; on images of one channel, saturation and hue change nothing.
"""

import torch
from torch import Tensor

from lit_cv.augment.memory import on_device, per_sample

__all__ = ["adjust_brightness", "adjust_contrast", "adjust_hue", "adjust_saturation", "gray"]

LUMA = (0.2989, 0.587, 0.114)
_LUMA_VECTOR = torch.tensor(LUMA)
_ONE = torch.ones(())
_SIXTHS = torch.tensor([3.0, 1.0, 5.0])  # 3 - the hue of red, green and blue, in sixths of a turn


def gray(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) of images (N, C, H, W); images of one channel are returned unchanged."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply images (N, C, H, W) in [0, 1] by factors (N,) of at least 0."""
    return images.mul_(per_sample(factor, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the difference of images from the mean of their luma by factors (N,); 1 changes nothing."""
    sums = images.flatten(2).sum(2)  # faster than mean()
    if images.shape[1] == 3:
        sums = sums @ on_device(_LUMA_VECTOR, images)
    factor = on_device(factor, images)
    middle = sums.view(-1).mul_((1 - factor).mul_(1 / (images.shape[2] * images.shape[3])))
    return images.mul_(factor.view(-1, 1, 1, 1)).add_(middle.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the difference of pixels from their luma by factors (N,); 1 changes nothing, 0 gives gray."""
    if images.shape[1] == 1:
        return images
    return torch.lerp(gray(images), images, per_sample(factor, images), out=images).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of HSV by shifts (N,) in turns, -0.5 to 0.5.

    Saturation and value do not change, so no conversion to HSV and back is needed. With M and m the largest and
    smallest channel of a pixel, its hue in sixths of a turn, from -3 to 3, is

        h = sign(G - B) * (1 + (G + B - R - m) / (M - m))

    in all six sextants. A channel of the result is m + (M - m) * clamp(||h'| - 3| - 1, 0, 1), where h' is the
    distance, up to 6, of the new hue from the hue of that channel. This equals the round trip through HSV to
    0.001 / 255 and takes a tenth of its time.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    high, low = torch.maximum(high, red, out=high), torch.minimum(low, red, out=low)
    size = torch.add(green, blue).sub_(red).sub_(low)
    chroma = high.sub_(low)
    torch.addcdiv(on_device(_ONE, images), size, chroma.clamp_min(1e-12), out=size)
    turned = torch.copysign(size, torch.sub(green, blue), out=size)
    offset = (6 * shift[:, None] + _SIXTHS).remainder_(6).sub_(3).view(-1, 3, 1, 1)
    fraction = torch.add(turned[:, None], on_device(offset, images), out=images)
    fraction.abs_().sub_(3).abs_().clamp_(1, 2)  # 1 too large, which `low` compensates for
    low.sub_(chroma)
    return torch.addcmul(low[:, None], chroma[:, None], fraction, out=images)

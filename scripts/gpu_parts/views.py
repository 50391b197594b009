"""SimCLR's two views of a batch at 224 pixels: images per second of each library."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from gpu_parts.measuring import cost, random_images
from gpu_parts.setting import Setting, SkippedItemError
from lit_cv.callbacks import ContrastiveAugmentation

__all__ = ["items", "run"]

JITTER, SIGMA, KERNEL = (0.8, 0.8, 0.8, 0.2), (0.1, 2.0), 23
PER_IMAGE = ("lightly", "torchvision")
"""Libraries that transform one PIL image at a time, on one thread of the CPU."""


def items(setting: Setting) -> dict[str, list[str]]:
    """Return the libraries."""
    return {"items": ["lit_cv", "kornia"] if setting.tiny else ["lit_cv", "lit_cv, not exact", "kornia", *PER_IMAGE]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Measure one library; images are resized from 256 pixels."""
    full, side = (256, 224) if setting.device == "cuda" else (72, 64)
    count = 8 if item in PER_IMAGE else 256 if setting.device == "cuda" else 4
    images = random_images(count, full, setting)
    measured = cost(_function(item, images, side), setting, rounds=1 if setting.tiny else 8)
    memory = None if item in PER_IMAGE or measured.mebibytes is None else round(measured.mebibytes)
    where = "CPU, one thread" if item in PER_IMAGE else setting.device
    return {"images_per_second": round(2 * count / measured.seconds), "mebibytes": memory, "detail": where}


def _function(item: str, images: Tensor, side: int) -> Callable[[], Any]:
    if item.startswith("lit_cv"):
        callback = ContrastiveAugmentation(size=side, blur=0.5, exact="not" not in item)
        return lambda: callback.views(images)
    if item == "kornia":
        operations = _module("kornia.augmentation")
        steps = [
            operations.RandomResizedCrop((side, side)),
            operations.RandomHorizontalFlip(),
            operations.ColorJitter(*JITTER, p=0.8),
            operations.RandomGrayscale(p=0.2),
            operations.RandomGaussianBlur((KERNEL, KERNEL), SIGMA, p=0.5),
        ]
        sequence = operations.AugmentationSequential(*steps)
        return lambda: sequence(images.repeat(2, 1, 1, 1).float() / 255)
    torch.set_num_threads(1)
    pil = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    if item == "lightly":
        two = _module("lightly.transforms").SimCLRTransform(input_size=side, cj_strength=1.0, normalize=None)
        return lambda: [two(image) for image in pil]
    one = v2.Compose(
        [
            v2.RandomResizedCrop(side),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(KERNEL, SIGMA)], 0.5),
            v2.ToImage(),
        ]
    )
    return lambda: torch.stack([one(image) for image in pil * 2])


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise SkippedItemError(str(error)) from None

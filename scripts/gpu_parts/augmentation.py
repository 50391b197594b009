"""Every operation gives the same images on the device as on the CPU, for equal draws."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_parts.measuring import random_images
from gpu_parts.setting import Setting, require
from lit_cv.augment import OPERATIONS, build_operations, cutmix, draw_cutmix, draw_mixup, mixup
from lit_cv.augment.policies import POLICIES, policy_operations
from lit_cv.callbacks import ContrastiveAugmentation

__all__ = ["items", "run"]

LEVELS = 2  # of 255; rounding may differ
SHARE = 0.02  # of the values, which may differ by more: some operations round or have thresholds
NOISE = 0.05  # relative difference of the statistics of random noise


def items(setting: Setting) -> dict[str, list[str]]:
    """Return all operations, policies and mixtures."""
    return {"items": [*OPERATIONS, *(f"policy {name}" for name in POLICIES), "cutmix", "mixup", "two views"]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Apply an operation to uint8 and float images in both layouts, on the CPU and on the device."""
    images = random_images(16, 64, setting).cpu()
    worst: dict[str, float] = {}
    for dtype in (torch.uint8, torch.float32):
        for layout in (torch.contiguous_format, torch.channels_last):
            batch = (images if dtype == torch.uint8 else images / 255).contiguous(memory_format=layout)
            errors = _errors(item, batch, setting)
            worst = {name: max(value, worst.get(name, 0.0)) for name, value in errors.items()}
    if "noise" in worst:
        require(worst["noise"] < NOISE, f"the noise differs by {worst['noise']:.1%}")
    else:
        require(worst["share"] < SHARE, f"{worst['share']:.2%} of the values differ by more than {LEVELS} levels")
    return {name: round(value, 5) for name, value in worst.items()}


def _errors(item: str, batch: Tensor, setting: Setting) -> dict[str, float]:
    apply = _function(item)
    results = []
    for images in (batch, batch.to(setting.device)):
        torch.manual_seed(0)
        results.append(apply(images))
        require(results[-1].device.type == images.device.type, f"the result is on {results[-1].device}")
    expected, got = (result.cpu().float() * (1 if batch.dtype == torch.uint8 else 255) for result in results)
    if item == "gaussian_noise":
        original = batch.float() * (1 if batch.dtype == torch.uint8 else 255)
        spread = [float((result - original).std()) for result in (expected, got)]
        return {"noise": abs(spread[1] / spread[0] - 1)}
    difference = (expected - got).abs()
    return {"largest": float(difference.max()), "share": float((difference > LEVELS).float().mean())}


def _function(item: str) -> Callable[[Tensor], Tensor]:
    """Return a function of images that draws from torch's default generator of the CPU."""
    if item == "two views":
        return ContrastiveAugmentation(solarize=[0.0, 0.2]).views
    if item == "cutmix":
        return lambda images: cutmix(images, draw_cutmix(len(images), (images.shape[2], images.shape[3]), 1.0)[0])
    if item == "mixup":
        return lambda images: mixup(images, draw_mixup(len(images), 1.0))
    if item.startswith("policy "):
        return build_operations(policy_operations(item.removeprefix("policy ")))
    return OPERATIONS[item]()

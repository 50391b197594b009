"""Reverse validation: how well a classifier's predictions for target images teach a new network. Pure torch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.augment import Chain, build_operations
from lit_cv.nn.batch_statistics import batch_statistics
from lit_cv.nn.compact import Conv4

__all__ = ["ReverseScores", "reverse_validation"]

_SIDE = 32  # pixels, at most
_WIDTH = 32
_BATCH = 64
_LR = 3e-3
_HELD_OUT = 1 / 3


class ReverseScores(NamedTuple):
    """What a network learned from predictions for target images.

    Attributes:
        source_accuracy: Its accuracy on source images.
        agreement: How often it predicts the same class as the judged classifier for target images held out from its
            training, as the mean over classes, 0 for a class that is not predicted: to agree on one class for all
            images is easy.
    """

    source_accuracy: Tensor
    agreement: Tensor


def reverse_validation(
    images: Tensor,
    predictions: Tensor,
    source_images: Tensor,
    source_labels: Tensor,
    num_classes: int,
    steps: int = 300,
    seed: int = 0,
) -> ReverseScores:
    """Train a small network on the predictions for target images alone, and test it.

    Right predictions teach something that holds for the source, too (Zhong et al. 2010, "Cross Validation Framework to
    Choose amongst Models and Datasets for Transfer Learning"; Ganin et al. 2016, section 5.1.2), and can be learned
    from one another: mistakes without a system do not agree with those on other images. Confidence, diversity and
    aligned features, which adaptation optimizes, have no part in it. The network starts from the same random weights
    every time, and learns from images of at most 32 x 32 pixels with random transformations, shades and inversion.

    Args:
        images: (N, C, H, W) uint8 or in [0, 1], target images.
        predictions: (N,) int64, the predicted classes.
        source_images: (M, C, H, W), labeled images of the source.
        source_labels: (M,) int64.
        num_classes: Number of classes.
        steps: Optimizer steps, of 64 images each.
        seed: Seed of the network and its training.

    Returns:
        Two scalars in [0, 1].

    Raises:
        ValueError: If there are fewer than two target images or no source image.

    Example:
        >>> images = torch.rand(6, 1, 8, 8)
        >>> scores = reverse_validation(images, torch.zeros(6, dtype=torch.int64), images, torch.zeros(6), 2, steps=5)
        >>> 0 <= float(scores.agreement) <= 0.5  # one of two classes is never predicted
        True
    """
    if len(images) < 2 or not len(source_images):
        raise ValueError(f"{len(images)} target and {len(source_images)} source images: give at least two and one.")
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        target, source = _reduced(images), _reduced(source_images)
        order = torch.randperm(len(target)).to(target.device)
        held = order[: max(1, round(_HELD_OUT * len(order)))]
        kept = order[len(held) :]
        network = (
            nn.Sequential(
                Conv4(target.shape[1], _WIDTH), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTH, num_classes)
            )
            .to(target.device)
            .to(memory_format=torch.channels_last)
        )
        _learn(network, target[kept], predictions.clone()[kept], steps)
        with torch.no_grad(), batch_statistics(network):  # each domain is normalized by its own statistics
            right = network(_standardized(source)).argmax(1) == source_labels
            same = network(_standardized(target[held])).argmax(1) == predictions[held]
        members = F.one_hot(predictions[held], num_classes).float()
        agreement = (members.T @ same.float() / members.sum(0).clamp_min(1)).mean()
    return ReverseScores(right.float().mean(), agreement)


def _learn(network: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR)
    augment = _augmentation()
    for _ in range(steps):
        rows = torch.randint(len(images), (_BATCH,)).to(images.device)
        loss = F.cross_entropy(network(_standardized(augment(images[rows]))), labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _augmentation() -> Chain:
    return build_operations(
        [
            {"name": "affine", "degrees": 15, "translate": 0.1, "scale": [0.8, 1.2]},
            {"name": "color_jitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
            {"name": "solarize", "threshold": 0.0, "p": 0.5},
        ]
    )


def _reduced(images: Tensor) -> Tensor:
    """Return images of at most `_SIDE` pixels per side, float in [0, 1]."""
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float().clone()
    factor = _SIDE / max(pixels.shape[2:])
    if factor >= 1:
        return pixels
    size = [max(1, round(side * factor)) for side in pixels.shape[2:]]
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def _standardized(images: Tensor) -> Tensor:
    """Return images with mean 0 and standard deviation 1 each."""
    std, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    return ((images - mean) / (std + 1e-3)).contiguous(memory_format=torch.channels_last)

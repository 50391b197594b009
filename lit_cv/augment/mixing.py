"""CutMix and MixUp within a batch, and the corresponding labels."""

import torch
from torch import Tensor

from lit_cv.augment.checks import check_images
from lit_cv.augment.memory import on_device, per_sample
from lit_cv.augment.regions import centered_boxes, paste_boxes

__all__ = ["cutmix", "draw_cutmix", "draw_mixup", "mix_labels", "mixup", "soft_labels"]


def draw_cutmix(n: int, size: tuple[int, int], alpha: float) -> tuple[Tensor, Tensor]:
    """Draw the box to replace in each sample (Yun et al., 2019, equation 2).

    Args:
        n: Number of samples.
        size: (height, width) of the images in pixels.
        alpha: Parameter of the distribution Beta(alpha, alpha) of the fraction to keep.

    Returns:
        Boxes (N, 4) int64 (top, left, bottom, right), clipped at the edges, and the weight (N,) of each sample's
        original label: the fraction of the image outside the clipped box.
    """
    keep = torch.distributions.Beta(alpha, alpha).sample((n,))
    half = (1 - keep).clamp_min_(0).sqrt_().mul_(0.5)
    boxes = centered_boxes(size, (half * size[0]).long(), (half * size[1]).long())
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return boxes, 1 - area / (size[0] * size[1])


def cutmix(images: Tensor, boxes: Tensor) -> Tensor:
    """Return a copy of images with each box replaced by that of the previous sample in the batch.

    Args:
        images: (N, C, H, W), not changed.
        boxes: (N, 4) int64, top, left, bottom, right; on the CPU.
    """
    check_images(images)
    return paste_boxes(images.clone(), images, boxes)


def draw_mixup(n: int, alpha: float) -> Tensor:
    """Draw the weight (N,) of each sample in its mixture from Beta(alpha, alpha) (Zhang et al., 2018)."""
    return torch.distributions.Beta(alpha, alpha).sample((n,))


def mixup(images: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted means of each sample and the previous one in the batch.

    Args:
        images: (N, C, H, W), not changed.
        weight: Weight of the sample, (N,) in [0, 1]; the previous one has 1 - weight. On the CPU.

    Returns:
        (N, C, H, W), in the dtype of the images; uint8 is rounded to the nearest.
    """
    check_images(images)
    pixels = images.to(torch.float32)
    mixed = torch.lerp(pixels.roll(1, 0), pixels, per_sample(weight, images))
    return mixed.add_(0.5).to(torch.uint8) if images.dtype == torch.uint8 else mixed.to(images.dtype)


def soft_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Convert labels to weights of the classes.

    Args:
        labels: Classes (N,) int64, -1 if unlabeled; or weights (N, K) floating point, which do not change.
        num_classes: Number of classes.

    Returns:
        (N, num_classes) float32; the row of an unlabeled sample is zero.

    Raises:
        TypeError: If the labels are neither.
        ValueError: If the labels do not fit `num_classes`.

    Example:
        >>> soft_labels(torch.tensor([1, -1]), 2)
        tensor([[0., 1.],
                [0., 0.]])
    """
    if labels.ndim == 2 and labels.is_floating_point():
        if labels.shape[1] != num_classes:
            raise ValueError(f"labels have {labels.shape[1]} classes, but the module has num_classes={num_classes}.")
        return labels.to(torch.float32)
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise TypeError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give classes (N,) int64, or (N, K) float."
        )
    if labels.device.type == "cpu" and len(labels) and int(labels.max()) >= num_classes:
        raise ValueError(f"there is a label {int(labels.max())}, but the module has num_classes={num_classes}.")
    weights = torch.zeros(len(labels), num_classes, device=labels.device)
    return weights.scatter_(1, labels.clamp_min(0)[:, None], (labels >= 0).float()[:, None])


def mix_labels(labels: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted means of the labels of each sample and the previous one.

    Args:
        labels: (N, K) floating point.
        weight: Weight of the sample's label, (N,) in [0, 1]; on the CPU.
    """
    return torch.lerp(labels.roll(1, 0), labels, on_device(weight, labels)[:, None])

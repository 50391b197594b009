"""Cross-entropies for single-label and multi-label classification with missing labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.ignore_index import UNLABELED

__all__ = ["class_cross_entropy", "image_cross_entropy", "image_weights", "known_mean", "label_cross_entropy"]


def class_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of labeled images, and the divisor for the mean.

    With hard labels, their ratio equals `torch.nn.functional.cross_entropy`: class weights scale the loss of the images
    and weight the mean. Soft labels weight the mean by the class weights of their classes, so that a one-hot row equals
    a hard label; torch instead divides by the number of images, regardless of the weights.

    Args:
        logits: (N, K).
        target: (N,) int64, negative if unknown, or (N, K) float: class probabilities, which sum to 1, or to 0 if
            unknown, or to less than 1 if one of two mixed images has no label.
        weight: Weights of the classes (K,).
        label_smoothing: Fraction of a label's weight that is spread evenly over all classes.

    Returns:
        The sum and its divisor, scalars; both 0 if no image has a label.

    Example:
        >>> total, count = class_cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, -1]))
        >>> round(float(total / count), 4), int(count)
        (0.6931, 2)
    """
    return image_cross_entropy(logits, target, weight, label_smoothing).sum(), image_weights(target, weight).sum()


def image_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy (N,) of each image, 0 without a label; its sum is that of `class_cross_entropy`."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    weight = None if weight is None else weight.to(logits.dtype)
    if target.ndim == 1:
        return F.cross_entropy(
            logits, target.clamp_min(UNLABELED), weight=weight, ignore_index=UNLABELED, label_smoothing=label_smoothing,
            reduction="none",
        )  # fmt: skip
    target = target.to(logits.dtype).clamp_min(0)
    smooth = target * (1 - label_smoothing) + target.sum(1, keepdim=True) * (label_smoothing / logits.shape[1])
    return F.cross_entropy(logits, smooth, weight=weight, reduction="none")


def image_weights(target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weight (N,) of each image in the mean, 0 without a label; see `class_cross_entropy`."""
    if target.ndim == 1:
        known = (target >= 0).float()
        return known if weight is None else known * weight[target.clamp_min(0)]
    target = target.clamp_min(0)
    return (target if weight is None else target * weight).sum(1)


def label_cross_entropy(
    logits: Tensor, target: Tensor, pos_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean binary cross-entropy over the known labels of each image, 0 if none is known.

    Args:
        logits: (N, K).
        target: (N, K), 0 or 1, negative or NaN if unknown.
        pos_weight: Weights (K,) of the positive labels.
        label_smoothing: Twice the fraction of a label's weight that is moved to the opposite label.

    Returns:
        (N,).

    Example:
        >>> label_cross_entropy(torch.zeros(1, 3), torch.tensor([[1, 0, -1]]))
        tensor([0.6931])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    known = target >= 0  # false for NaN, too
    hard = torch.where(known, target.to(logits.dtype), 0.0)
    soft = hard * (1 - label_smoothing) + label_smoothing / 2
    return known_mean(F.binary_cross_entropy_with_logits(logits, soft, pos_weight=pos_weight, reduction="none"), known)


def known_mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean (M,) over the known entries of each row of finite values (M, ...)."""
    total = torch.where(known, values, 0.0).flatten(1).sum(1)
    return total / known.flatten(1).sum(1).clamp_min(1)

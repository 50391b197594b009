"""The focal loss of detectors with independent (sigmoid) class outputs."""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

__all__ = ["focal_sum"]


def focal_sum(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the sum of the focal loss (Lin et al. 2017, alpha 0.25, gamma 2).

    Args:
        logits: (..., K), class logits at locations or anchors.
        targets: The same shape, 1 for the class of an object, else 0.
        weight: (K,), factors of the loss where the target is 1.

    Example:
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> focal_sum(logits, targets).round(decimals=4)
        tensor(0.1733)
        >>> focal_sum(logits, targets, torch.tensor([2.0, 5.0])).round(decimals=4)
        tensor(0.2166)
    """
    losses: Tensor = sigmoid_focal_loss(logits, targets)
    return losses.sum() if weight is None else (losses * torch.where(targets > 0, weight, 1.0)).sum()

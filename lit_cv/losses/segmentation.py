"""Segmentation losses, and the sums that they are computed from."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import joined_mean
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = [
    "dice_loss",
    "dice_loss_of_sums",
    "dice_sums",
    "pixel_cross_entropy",
    "summed_pixel_cross_entropy",
]


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the mean cross-entropy over the pixels with a known class, 0 if there are none.

    Args:
        logits: (N, K, H, W).
        target: (N, H, W) int64, classes from 0.
        weight: Weights of the classes (K,); the mean is weighted by them, too.
        ignore_index: Value of the target where the class is unknown.

    Example:
        >>> pixel_cross_entropy(torch.zeros(1, 4, 1, 2), torch.tensor([[[3, 255]]]))
        tensor(1.3863)
    """
    return joined_mean(*summed_pixel_cross_entropy(logits, target, weight, ignore_index), gather=False)[0]


def summed_pixel_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> tuple[Tensor, Tensor]:
    """Return the sum and the divisor of `pixel_cross_entropy`, the (weighted) number of pixels with a known class."""
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(logits.float(), target, weight=weight, ignore_index=ignore_index, reduction="sum")
        known = target != ignore_index
        return total, known.sum() if weight is None else weight[target[known]].sum()


def dice_loss(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return one minus the Dice coefficient of the probabilities, averaged over the classes in the target.

    The coefficient of class k is 2 sum p_k t_k / (sum p_k + sum t_k) over all pixels of the batch with a known class
    (Milletari et al. 2016 with plain sums, several classes as in Sudre et al. 2017, unweighted). Unlike in the
    cross-entropy, small classes count as much as large ones.

    Args:
        logits: (N, K, H, W).
        target: (N, H, W) int64, classes from 0.
        ignore_index: Value of the target where the class is unknown.

    Example:
        >>> logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])  # pixels of the classes 0 and 1
        >>> dice_loss(logits, torch.tensor([[[0, 0]]])).round(decimals=3)
        tensor(0.3330)
    """
    return dice_loss_of_sums(dice_sums(logits, target, ignore_index))


def dice_sums(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the sums over pixels that `dice_loss` is computed from, (3, K): of p_k t_k, p_k and t_k."""
    with torch.autocast(logits.device.type, enabled=False):
        known = (target != ignore_index)[:, None]
        probabilities = logits.float().softmax(1) * known
        truth = F.one_hot(torch.where(known[:, 0], target, 0), logits.shape[1]).movedim(-1, 1) * known
        return torch.stack([part.sum((0, 2, 3)) for part in (probabilities * truth, probabilities, truth)])


def dice_loss_of_sums(sums: Tensor) -> Tensor:
    """Return `dice_loss` from the sums (3, K) over the pixels of one or several batches."""
    overlap, predicted, actual = sums.unbind()
    dice = 2 * overlap / (predicted + actual).clamp_min(1e-6)
    present = actual > 0
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)

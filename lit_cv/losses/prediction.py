"""A prediction points in the direction of its target, as in BYOL and SimReg."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_loss"]


def cosine_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of 2 - 2 cos, the squared distance of normalized vectors (Grill et al. 2020, equation 2).

    Args:
        predictions: (N, D).
        targets: (N, D); they get no gradient.

    Returns:
        A scalar from 0 to 4, in at least float32.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> cosine_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(2.)
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"shapes {tuple(predictions.shape)} and {tuple(targets.shape)}: predictions and targets need the same."
        )
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    return 2 - 2 * F.cosine_similarity(predictions.to(dtype), targets.detach().to(dtype)).mean()

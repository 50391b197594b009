"""Nearest-centroid classification in an embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["centroid_predictions"]


@torch.no_grad()
def centroid_predictions(queries: Tensor, bank: Tensor, bank_labels: Tensor, num_classes: int) -> Tensor:
    """Classify embeddings by the nearest class mean, as in prototypical networks (Snell et al. 2017, equation 1).

    Embeddings are normalized to length 1 before averaging; distances are Euclidean.

    Args:
        queries: (N, D) float.
        bank: (M, D) float, labeled embeddings.
        bank_labels: (M,) int64 in [0, num_classes). A class without embeddings is never predicted.
        num_classes: Number of classes.

    Returns:
        (N,) int64, the predicted classes.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> centroid_predictions(torch.tensor([[2.0, 0.1]]), bank, torch.tensor([2, 0]), 3)
        tensor([2])
    """
    if len(bank) == 0 or len(bank) != len(bank_labels):
        raise ValueError(f"{len(bank)} embeddings with {len(bank_labels)} labels: give one label per embedding.")
    members = F.one_hot(bank_labels, num_classes).float()
    means = members.T @ F.normalize(bank.float(), dim=1) / members.sum(0).clamp_min(1)[:, None]
    distances = torch.cdist(F.normalize(queries.float(), dim=1), means)
    distances[:, members.sum(0) == 0] = torch.inf
    return distances.argmin(1)

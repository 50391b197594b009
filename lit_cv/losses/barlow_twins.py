"""Barlow Twins: the cross-correlation of two views is the identity."""

import torch
from torch import Tensor

from lit_cv.distributed import gather_with_gradient
from lit_cv.losses.cross_products import off_diagonal_energy

__all__ = ["barlow_twins_terms"]


def barlow_twins_terms(first: Tensor, second: Tensor, gather: bool = True) -> tuple[Tensor, Tensor]:
    """Return the two terms of Barlow Twins (Zbontar et al. 2021, equation 1), not weighted.

    C is the cross-correlation over the batch of the dimensions of two views. The invariance is the sum of
    (1 - C_ii)^2, the redundancy the sum of C_ij^2 over i != j. They are computed in at least float32. Several ranks
    share the statistics of their joined batch, so that the gradients averaged over ranks equal those of one rank with
    this batch.

    Args:
        first: (N, D), embeddings of a view of N >= 2 images.
        second: (N, D), embeddings of another view.
        gather: Whether statistics cover the images of all ranks, each of which then has the same number.

    Returns:
        Invariance and redundancy, scalars.

    Example:
        >>> views = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # two equal dimensions
        >>> [round(term.item(), 2) for term in barlow_twins_terms(views, views)]
        [0.0, 2.0]
    """
    with torch.autocast(first.device.type, enabled=False):
        pair = torch.stack([first, second], 1)
        pair = pair if pair.dtype == torch.float64 else pair.float()
        pair = gather_with_gradient(pair) if gather else pair
        centered = pair - pair.mean(0)
        standardized = centered * (centered.square().mean(0) + 1e-5).rsqrt()
        a, b = standardized.unbind(1)
        n = len(a)
        return (1 - (a * b).mean(0)).square().sum(), off_diagonal_energy(a, b) / (n * n)

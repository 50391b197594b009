"""VICReg: variance, invariance and covariance of embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_with_gradient
from lit_cv.losses.cross_products import off_diagonal_energy

__all__ = ["vicreg_terms"]


def vicreg_terms(views: Tensor, gather: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms of VICReg (Bardes et al. 2022, equations 1 to 6), not weighted.

    - invariance: mean squared difference of two views of an image, averaged over all pairs of views.
    - variance: how far the standard deviation of each dimension over the batch is below 1, averaged over dimensions
      and views.
    - covariance: sum of the squared covariances of different dimensions, divided by the number of dimensions; summed
      over two views, or twice the average of more.

    They are computed in at least float32. Several ranks share the statistics of their joined batch, so that the
    gradients averaged over ranks equal those of one rank with this batch.

    Args:
        views: (V, N, D), embeddings of V >= 2 views of N images; one image has variance and covariance 0.
        gather: Whether statistics cover the images of all ranks, each of which then has the same number.

    Returns:
        Invariance, variance and covariance, scalars.

    Example:
        >>> views = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]] * 2)
        >>> [round(term.item(), 2) for term in vicreg_terms(views)]  # the second dimension is constant
        [0.0, 0.5, 0.0]
    """
    with torch.autocast(views.device.type, enabled=False):
        z = views if views.dtype == torch.float64 else views.float()
        pairs = [F.mse_loss(z[i], z[j]) for i in range(len(z)) for j in range(i)]
        everything = gather_with_gradient(z.transpose(0, 1)) if gather else z.transpose(0, 1)
        centered = everything - everything.mean(0)
        n = max(len(centered) - 1, 1)
        deviations = (centered.square().sum(0) / n + 1e-4).sqrt()
        energies = [off_diagonal_energy(view, view) for view in centered.unbind(1)]
        covariance = 2 * torch.stack(energies).mean() / (n * n * z.shape[2])
        return torch.stack(pairs).mean(), F.relu(1 - deviations).mean(), covariance

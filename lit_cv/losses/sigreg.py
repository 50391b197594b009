"""SIGReg, the regularizer of LeJEPA: embeddings follow an isotropic normal distribution."""

import torch
from torch import Tensor

from lit_cv.distributed import gather_with_gradient, world_size

__all__ = ["sigreg"]

_LARGEST = 3.0  # frequency
_KNOTS = 17  # frequencies from 0


def sigreg(embeddings: Tensor, directions: Tensor, gather: bool = True) -> Tensor:
    """Return the distance of embeddings from a standard normal distribution (Balestriero and LeCun 2025, section 4.2).

    The embeddings of a batch are projected onto random directions. For each, the statistic of Epps and Pulley compares
    the empirical characteristic function of the projections with exp(-t^2 / 2): their squared difference is weighted by
    exp(-t^2 / 2), integrated over t from -3 to 3 by the trapezoidal rule with steps of 3/16, and multiplied by the
    number of images, as in the authors' code.

    Args:
        embeddings: (N, D), or (V, N, D) for the mean over V views.
        directions: (D, M), of any length. All ranks must pass the same.
        gather: Whether the characteristic functions cover the images of all ranks, each of which has the same number.

    Returns:
        The mean over directions and views, a scalar, in at least float32.

    Example:
        >>> normal = torch.special.ndtri(torch.linspace(0.005, 0.995, 100))[:, None]
        >>> sigreg(normal, torch.ones(1, 1)) < 0.01, sigreg(0 * normal, torch.ones(1, 1)) > 10
        (tensor(True), tensor(True))
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        z = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        t = torch.linspace(0, _LARGEST, _KNOTS, device=z.device, dtype=z.dtype)
        normal = (-t.square() / 2).exp()
        weights = 2 * _LARGEST / (_KNOTS - 1) * normal
        weights[[0, -1]] /= 2
        angles = (z @ torch.nn.functional.normalize(directions.to(z.dtype), dim=0)).unsqueeze(-1) * t
        parts = torch.stack([angles.cos().mean(-3), angles.sin().mean(-3)])
        if gather:
            parts = gather_with_gradient(parts[None]).mean(0)
        distances = (parts[0] - normal).square() + parts[1].square()
        return (distances @ weights).mean() * z.shape[-2] * (world_size() if gather else 1)

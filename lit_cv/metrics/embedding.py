"""Label-free metrics of an embedding, which reveal a collapse before the accuracy does."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["alignment", "effective_rank", "spread", "uniformity"]

_CHUNK = 1024


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance between the normalized embeddings of two views of the same images.

    It is 0 if the views of an image coincide, and 2 if they are orthogonal (Wang and Isola 2020, equation 1 with
    alpha = 2).

    Args:
        first: (N, D) float.
        second: (N, D) float, embeddings of the same images in the same order.

    Example:
        >>> alignment(torch.eye(2), 3 * torch.eye(2))
        tensor(0.)
    """
    difference = F.normalize(first.float(), dim=1) - F.normalize(second.float(), dim=1)
    return difference.square().sum(1).mean()


@torch.no_grad()
def uniformity(embeddings: Tensor, t: float = 2.0) -> Tensor:
    """Return the log of the mean Gaussian potential exp(-t |z_i - z_j|^2) over all pairs of embeddings.

    It is 0 if all embeddings coincide. More negative values mean a more uniform distribution on the sphere, down to
    about -2 t in many dimensions (Wang and Isola 2020, equation 2).

    Args:
        embeddings: (N, D) float, N at least 2; they are normalized.
        t: Sharpness of the potential.

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(-8.)
    """
    z = F.normalize(embeddings.float(), dim=1)
    n = len(z)
    if n < 2:
        raise ValueError(f"{n} embeddings: uniformity needs at least 2.")
    total = torch.zeros((), dtype=torch.float64, device=z.device)
    for start in range(0, n, _CHUNK):
        # |a - b|^2 = 2 - 2 a.b for unit vectors
        potential = ((z[start : start + _CHUNK] @ z.T).sub_(1).mul_(2 * t)).exp_()
        potential.diagonal(start).zero_()
        total += potential.sum()
    return (total.log() - math.log(n * (n - 1))).float()


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Return RankMe, the exponential of the entropy of the normalized singular values of the embeddings.

    It ranges from 1 (all embeddings on one line) to min(N, D) (all directions used equally; Garrido et al. 2023,
    equation 1).

    Args:
        embeddings: (N, D) float, not normalized. If any value is NaN or infinite, the result is NaN.

    Example:
        >>> effective_rank(torch.eye(3))
        tensor(3.)
    """
    z = embeddings.float()
    if not torch.isfinite(z).all():
        return z.new_full((), torch.nan)
    values = torch.linalg.svdvals(z)
    normalized = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(normalized).sum()
    return entropy.exp()


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Return 1 minus the mean cosine similarity of all pairs of different embeddings, without cancellation.

    It is 0 if all embeddings point in one direction, and about 1 if they are spread over all directions.

    Args:
        embeddings: (N, D) float, N at least 2; they are normalized.

    Example:
        >>> spread(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor(1.)
    """
    if len(embeddings) < 2:
        raise ValueError(f"{len(embeddings)} embeddings: spread needs at least 2.")
    z = F.normalize(embeddings.float(), dim=1)
    return (z - z.mean(0)).square().sum() / (len(z) - 1)

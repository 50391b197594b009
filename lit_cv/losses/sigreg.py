"""SIGReg, the regularizer of LeJEPA: embeddings follow an isotropic normal distribution."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_with_gradient, world_size

__all__ = ["sigreg"]

_LARGEST = 3.0  # frequency
_STEPS = 16  # frequencies above 0
_CACHED = 1 << 16  # angles at a time on a CPU, so that they stay in its cache


def sigreg(embeddings: Tensor, directions: Tensor, gather: bool = True) -> Tensor:
    """Return the distance of embeddings from a standard normal distribution (Balestriero and LeCun 2025, section 4.2).

    The embeddings of a batch are projected onto random directions. For each, the statistic of Epps and Pulley compares
    the empirical characteristic function of the projections with exp(-t^2 / 2): their squared difference is weighted by
    exp(-t^2 / 2), integrated over t from -3 to 3 by the trapezoidal rule with steps of 3/16, and multiplied by the
    number of images, as in the authors' code. Memory does not grow with the number of frequencies t.

    Args:
        embeddings: (N, D), or (V, N, D) for the mean over V views.
        directions: (D, M), of any length. All ranks must pass the same.
        gather: Whether the characteristic functions cover the images of all ranks, each of which has the same number.

    Returns:
        The mean over directions and views, a scalar, in at least float32. It is differentiable once.

    Example:
        >>> normal = torch.special.ndtri(torch.linspace(0.005, 0.995, 100))[:, None]
        >>> sigreg(normal, torch.ones(1, 1)) < 0.01, sigreg(0 * normal, torch.ones(1, 1)) > 10
        (tensor(True), tensor(True))
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        z = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        step = _LARGEST / _STEPS
        angles = z @ F.normalize(directions.to(z.dtype), dim=0) * step
        columns = max(1, _CACHED * angles.shape[-1] // angles.numel()) if angles.is_cpu else angles.shape[-1]
        means = torch.cat([_means(part) for part in torch.split(angles, columns, -1)], -2)
        if gather:
            means = gather_with_gradient(means[None]).mean(0)
        t = step * torch.arange(1, _STEPS + 1, device=z.device, dtype=z.dtype)
        normal = (-t.square() / 2).exp()
        weights = 2 * step * normal  # at t = 0 both functions are 1
        weights[-1] /= 2
        distances = (means[0] - normal).square() + means[1].square()
        return (distances @ weights).mean() * z.shape[-2] * (world_size() if gather else 1)


def _means(angles: Tensor) -> Tensor:
    return cast(Tensor, _CharacteristicFunction.apply(angles))


class _CharacteristicFunction(torch.autograd.Function):
    """Means over the images of cos(k x) and sin(k x), k = 1 ... 16, by rotation from one k to the next.

    The backward pass computes the rotations again.
    """

    @staticmethod
    def forward(ctx: Any, angles: Tensor) -> Tensor:
        """Map angles (..., N, M) to means (2, ..., M, 16)."""
        ctx.save_for_backward(angles)
        cos, sin = angles.cos(), angles.sin()
        real, imaginary = cos.clone(), sin.clone()
        means = [torch.stack([real.mean(-2), imaginary.mean(-2)])]
        for _ in range(_STEPS - 1):
            real, imaginary = _rotate(real, imaginary, cos, sin)
            means.append(torch.stack([real.mean(-2), imaginary.mean(-2)]))
        return torch.stack(means, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (angles,) = ctx.saved_tensors
        cos, sin = angles.cos(), angles.sin()
        real, imaginary = cos, sin
        grad = grad / angles.shape[-2] * torch.arange(1, _STEPS + 1, device=grad.device, dtype=grad.dtype)
        of_cos, of_sin = (part.unsqueeze(-3).unbind(-1) for part in grad)
        total: Tensor = of_sin[0] * real - of_cos[0] * imaginary
        for k in range(1, _STEPS):
            real, imaginary = _rotate(real, imaginary, cos, sin)
            total.addcmul_(of_sin[k], real).addcmul_(of_cos[k], imaginary, value=-1)
        return total


def _rotate(real: Tensor, imaginary: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.addcmul(real * cos, imaginary, sin, value=-1),
        torch.addcmul(imaginary * cos, real, sin),
    )

"""Distances between two distributions of features, estimated from a sample of each."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["CORALLoss", "MMDLoss", "coral", "mmd"]

Estimator = Literal["unbiased", "linear"]


class MMDLoss(nn.Module):
    """Squared maximum mean discrepancy with a mixture of Gaussian kernels (Gretton et al. 2012; Long et al. 2015).

    The kernel is the mean of `exp(-|x - y|^2 / s)` over `kernels` scales s, each `factor` times the one before,
    around `bandwidth`. Several layers are compared jointly by the product of their kernels (Long et al. 2017,
    "Deep Transfer Learning with Joint Adaptation Networks"). The loss is computed in float32.

    Both estimators are unbiased, so for equal distributions they are near 0 and negative half of the time:

    - `unbiased` compares all pairs, in O(n^2). For samples of the same size, it is the U-statistic of Gretton et al.,
      equation 4 (exactly 0 if both have the same points in the same order), otherwise equation 3.
    - `linear` compares only neighboring pairs, in O(n) (lemma 14): a noisier estimate for large batches.

    Args:
        kernels: Number of kernels.
        factor: Ratio between neighboring scales.
        bandwidth: The middle scale, in squared units of the features; `None` uses the mean squared distance between
            the compared points of each layer, without a gradient.
        estimator: One of the above.

    Shapes:
        source (N, D), target (M, D), or equally long lists of such layers -> a float32 scalar.

    Raises:
        ValueError: If an option is out of range, or the shapes do not fit.

    Example:
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> float(MMDLoss()(x, x)), float(MMDLoss()(x, x + 1)) > 0.1
        (0.0, True)
    """

    def __init__(
        self, kernels: int = 5, factor: float = 2.0, bandwidth: float | None = None, estimator: Estimator = "unbiased"
    ) -> None:
        super().__init__()
        if kernels < 1:
            raise OptionError(self, "kernels", kernels, "must be at least 1")
        if factor <= 1:
            raise OptionError(self, "factor", factor, "must be a factor above 1")
        if bandwidth is not None and bandwidth <= 0:
            raise OptionError(
                self, "bandwidth", bandwidth, "must be a positive number, or null to estimate it from the features"
            )
        if estimator not in ("unbiased", "linear"):
            raise OptionError(self, "estimator", estimator, "must be 'unbiased' or 'linear'")
        self.kernels, self.factor, self.bandwidth, self.estimator = kernels, factor, bandwidth, estimator

    def forward(self, source: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the estimate."""
        return mmd(source, target, self.kernels, self.factor, self.bandwidth, self.estimator)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"kernels={self.kernels}, factor={self.factor}, bandwidth={self.bandwidth}, estimator={self.estimator}"


class CORALLoss(nn.Module):
    """Squared distance of the covariances, `|C_s - C_t|_F^2 / (4 D^2)` (Sun and Saenko 2016, "Deep CORAL").

    Shapes:
        source (N, D), target (M, D), N and M at least 2 -> a float32 scalar.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> CORALLoss()(x, 2 * x)
        tensor(9.)
    """

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the distance."""
        return coral(source, target)


def mmd(
    source: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    kernels: int = 5,
    factor: float = 2.0,
    bandwidth: float | None = None,
    estimator: Estimator = "unbiased",
) -> Tensor:
    """Return the squared maximum mean discrepancy between features; see `MMDLoss` for the arguments."""
    sources = [source] if isinstance(source, Tensor) else list(source)
    targets = [target] if isinstance(target, Tensor) else list(target)
    if not sources or len(sources) != len(targets):
        raise ValueError(
            f"{len(sources)} source layers and {len(targets)} target layers: give the same number of each."
        )
    compare = _linear if estimator == "linear" else _unbiased
    with torch.autocast(sources[0].device.type, enabled=False):
        layers = [_checked(x, y) for x, y in zip(sources, targets, strict=True)]
        return compare(layers, [factor ** (i - kernels // 2) for i in range(kernels)], bandwidth)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance between the covariances of features; see `CORALLoss`."""
    with torch.autocast(source.device.type, enabled=False):
        x, y = _checked(source, target)
        difference = _covariance(x) - _covariance(y)
        return difference.square().sum() / (4 * x.shape[1] ** 2)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features of shapes {tuple(x.shape)} and {tuple(y.shape)}: give (N, D) and (M, D), N and M at least 2."
        )
    return x.float(), y.float()


def _covariance(x: Tensor) -> Tensor:
    centered = x - x.mean(0)
    return centered.T @ centered / (len(x) - 1)


def _mixture(distances: Tensor, scales: Sequence[float], bandwidth: float | None, pairs: int) -> Tensor:
    """Return the mean of the kernels for squared distances, of which `pairs` belong to pairs; the others are 0."""
    middle = distances.detach().sum() / pairs if bandwidth is None else distances.new_tensor(bandwidth)
    middle = middle.clamp_min(torch.finfo(distances.dtype).tiny ** 0.5)  # all points equal
    kernel = torch.exp(-distances / (scales[0] * middle))
    for scale in scales[1:]:
        kernel = kernel + torch.exp(-distances / (scale * middle))
    return kernel / len(scales)


def _unbiased(layers: list[tuple[Tensor, Tensor]], scales: Sequence[float], bandwidth: float | None) -> Tensor:
    n, m = len(layers[0][0]), len(layers[0][1])
    kernel = torch.ones((), device=layers[0][0].device)
    for x, y in layers:
        z = torch.cat([x, y])
        z = z - z.detach().mean(0)  # centering keeps the distances and reduces rounding errors
        squares = z.square().sum(1)
        distances = (squares[:, None] + squares - 2 * z @ z.T).clamp_min(0)
        distances = distances * (1 - torch.eye(n + m, device=z.device))
        kernel = kernel * _mixture(distances, scales, bandwidth, pairs=(n + m) * (n + m - 1))
    xx, yy, xy = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    if n == m:
        return within - 2 * (xy.sum() - xy.trace()) / (n * (n - 1))
    return within - 2 * xy.mean()


def _linear(layers: list[tuple[Tensor, Tensor]], scales: Sequence[float], bandwidth: float | None) -> Tensor:
    pairs = min(len(layers[0][0]), len(layers[0][1])) // 2
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], device=layers[0][0].device)
    kernel = torch.ones((), device=signs.device)
    for x, y in layers:
        x0, x1, y0, y1 = x[: 2 * pairs : 2], x[1 : 2 * pairs : 2], y[: 2 * pairs : 2], y[1 : 2 * pairs : 2]
        distances = torch.stack([(a - b).square().sum(1) for a, b in ((x0, x1), (y0, y1), (x0, y1), (x1, y0))])
        kernel = kernel * _mixture(distances, scales, bandwidth, pairs=4 * pairs)
    return (signs @ kernel).mean()

"""The projection head between features and a contrastive loss."""

from itertools import pairwise

from torch import nn

from lit_cv.errors import OptionError

__all__ = ["Projector"]


class Projector(nn.Sequential):
    """A multi-layer perceptron that is discarded after training (Chen et al. 2020, section 4.2).

    BatchNorm follows each linear layer, with ReLU in between, as in SimCLR's published code. Without BatchNorm, the
    linear layers have biases.

    Args:
        num_features: Size of the features.
        hidden: Width of the hidden layers; `None` uses `num_features`, as in SimCLR.
        out_features: Size of the projection.
        layers: Number of linear layers, at least 1; SimCLR has 2, SimCLR v2 has 3.
        batch_norm: Whether BatchNorm follows each linear layer.

    Shapes:
        features (N, num_features) -> projections (N, out_features), not normalized.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> import torch
        >>> Projector(512)(torch.zeros(4, 512)).shape
        torch.Size([4, 128])
    """

    def __init__(
        self,
        num_features: int,
        hidden: int | None = None,
        out_features: int = 128,
        layers: int = 2,
        batch_norm: bool = True,
    ) -> None:
        hidden = num_features if hidden is None else hidden
        for name, value in (("hidden", hidden), ("out_features", out_features), ("layers", layers)):
            if value < 1:
                raise OptionError(self, name, value, "must be at least 1")
        widths = [num_features, *[hidden] * (layers - 1), out_features]
        parts: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths), 1):
            parts.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                parts.append(nn.BatchNorm1d(after))
            if i < layers:
                parts.append(nn.ReLU(inplace=True))
        super().__init__(*parts)

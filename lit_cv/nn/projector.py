"""The projection head between features and a contrastive loss."""

from itertools import pairwise
from typing import Literal

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
        batch_norm: Whether BatchNorm follows the linear layers.
        last_norm: BatchNorm after the last of them: `affine`; `plain`, without weights (MoCo v3); or `none` (BYOL,
            VICReg, Barlow Twins).

    Shapes:
        features (N, num_features) -> projections (N, out_features), not normalized.

    Raises:
        ValueError: If a number is below 1, or `last_norm` is unknown.

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
        last_norm: Literal["affine", "plain", "none"] = "affine",
    ) -> None:
        hidden = num_features if hidden is None else hidden
        for name, value in (("hidden", hidden), ("out_features", out_features), ("layers", layers)):
            if value < 1:
                raise OptionError(self, name, value, "must be at least 1")
        if last_norm not in ("affine", "plain", "none"):
            raise OptionError(self, "last_norm", last_norm, "must be 'affine', 'plain' or 'none'")
        widths = [num_features, *[hidden] * (layers - 1), out_features]
        parts: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths), 1):
            parts.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm and (i < layers or last_norm != "none"):
                parts.append(nn.BatchNorm1d(after, affine=i < layers or last_norm == "affine"))
            if i < layers:
                parts.append(nn.ReLU(inplace=True))
        super().__init__(*parts)

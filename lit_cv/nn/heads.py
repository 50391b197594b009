"""Classification head and spatial dropout on top of a backbone."""

from typing import cast

from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["ClassificationHead", "SpatialDropout"]


class ClassificationHead(nn.Module):
    """Dropout and a linear layer from pooled features to logits.

    Args:
        num_features: Size of the features.
        num_classes: Number of classes.
        dropout: Probability of dropping a feature, in [0, 1).

    Shapes:
        features (N, num_features) -> logits (N, num_classes).

    Raises:
        ValueError: If a size is below 1 or the probability out of range.

    Example:
        >>> import torch
        >>> ClassificationHead(8, 3)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_features < 1 or num_classes < 1:
            raise ValueError(f"num_features={num_features}, num_classes={num_classes}: both must be at least 1.")
        _check_probability("dropout", dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, num_classes) for features (N, num_features)."""
        return cast(Tensor, self.linear(self.dropout(features)))


class SpatialDropout(nn.Dropout2d):
    """Dropout of whole channels of a feature map; the others are scaled up (Tompson et al. 2015, section 3.2).

    Neighboring positions of a feature map are so similar that dropping single ones hardly regularizes.

    Args:
        p: Probability of dropping a channel, in [0, 1).

    Shapes:
        (N, C, h, w) -> (N, C, h, w).

    Raises:
        ValueError: If the probability is out of range.
    """

    def __init__(self, p: float = 0.0) -> None:
        _check_probability("spatial_dropout", p)
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training; return the map unchanged otherwise."""
        return super().forward(input) if self.p and self.training else input


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(None, name, value, "must be a probability in [0, 1)")

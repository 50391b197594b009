"""The head of DINO: similarity of features to learned prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["PrototypeHead"]


class PrototypeHead(nn.Module):
    """A multi-layer perceptron, then the cosine to each of many prototypes (Caron et al. 2021, section 3.2).

    The prototypes are the rows of the last layer, normalized to length 1: weight normalization with fixed magnitude.

    Args:
        num_features: Size of the features.
        hidden: Width of the two hidden layers, which GELU follows.
        bottleneck: Size of the vectors that are compared with the prototypes.
        prototypes: Number of prototypes.

    Shapes:
        features (N, num_features) -> cosines (N, prototypes).

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> PrototypeHead(64, hidden=32, bottleneck=8, prototypes=100)(torch.zeros(4, 64)).shape
        torch.Size([4, 100])
    """

    def __init__(self, num_features: int, hidden: int = 2048, bottleneck: int = 256, prototypes: int = 65536) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("bottleneck", bottleneck), ("prototypes", prototypes)):
            if value < 1:
                raise OptionError(self, name, value, "must be at least 1")
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosine of each image's vector to each prototype."""
        return F.linear(F.normalize(self.layers(features), dim=1), F.normalize(self.prototypes, dim=1))

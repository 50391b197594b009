"""The domain discriminator of adversarial domain adaptation."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["Conditioning", "DomainDiscriminator"]

Conditioning = Literal["none", "multilinear", "entropy"]

_WIDEST = 4096  # largest outer product of features and classes that is used without a projection
_RANDOM = 1024  # size of the random projection of a larger product


class DomainDiscriminator(nn.Module):
    """A classifier of source versus target by their features, optionally conditioned on the class probabilities.

    Without conditioning, the input is the features (Ganin et al. 2016). With conditioning, it is their outer product
    with the class probabilities (Long et al. 2018, "Conditional Adversarial Domain Adaptation"), so that domains are
    compared within a class. A product of more than 4,096 numbers is replaced by a random projection of both factors to
    1,024 (equation 5 of the paper). No gradient flows into the probabilities.

    Args:
        num_features: Size of the features.
        num_classes: Number of classes K.
        hidden: Width of the two hidden layers.
        conditional: Whether to condition on the class probabilities.

    Shapes:
        features (N, num_features), probabilities (N, K) -> logits of the target domain (N,).

    Example:
        >>> discriminator = DomainDiscriminator(8, 3, hidden=16)
        >>> discriminator(torch.zeros(2, 8), torch.full((2, 3), 1 / 3)).shape
        torch.Size([2])
    """

    def __init__(self, num_features: int, num_classes: int, hidden: int = 500, conditional: bool = False) -> None:
        super().__init__()
        if hidden < 1:
            raise OptionError(self, "discriminator_hidden", hidden, "must be the width of a layer, at least 1")
        self.conditional = conditional
        self.feature_projection: Tensor | None
        self.class_projection: Tensor | None
        width, projections = num_features, None
        if conditional:
            width = num_features * num_classes
            if width > _WIDEST:
                width = _RANDOM
                projections = torch.randn(num_features, width), torch.randn(num_classes, width)
        # Buffers, saved with the weights, which are meaningless without them.
        self.register_buffer("feature_projection", projections[0] if projections else None)
        self.register_buffer("class_projection", projections[1] if projections else None)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return the logits of the target domain."""
        if self.conditional:
            probabilities = probabilities.detach().to(features.dtype)
            if self.feature_projection is not None and self.class_projection is not None:
                features = (features @ self.feature_projection) * (probabilities @ self.class_projection) / _RANDOM**0.5
            else:
                features = (probabilities[:, :, None] * features[:, None]).flatten(1)
        return cast(Tensor, self.layers(features))[:, 0]

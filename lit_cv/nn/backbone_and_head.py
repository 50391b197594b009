"""A backbone and a head as one network."""

from typing import cast

from torch import Tensor, nn

__all__ = ["BackboneAndHead"]


class BackboneAndHead(nn.Module):
    """Runs a head on the features of a backbone; for moving averages of both, see `MovingAverage`.

    Args:
        backbone: Network from images to features.
        head: Network from features to outputs.

    Example:
        >>> import torch
        >>> BackboneAndHead(nn.Flatten(), nn.Linear(12, 5))(torch.zeros(2, 3, 2, 2)).shape
        torch.Size([2, 5])
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's output for images."""
        return cast(Tensor, self.head(self.backbone(images)))
